"""Memory is kept where the C library can."""

from __future__ import annotations

import ctypes
import platform

import pytest

from resdet.memory import keep_memory


def test_glibc_keeps_memory() -> None:
    assert keep_memory() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_libraries_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(name: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert not keep_memory()
