"""The folder of what can be made again, and results that are kept in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from resdet.files.cache import cache_folder, load_result, store_result


def test_the_cache_can_be_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RESDET_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "resdet"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "resdet"
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_results_are_kept_and_damaged_ones_are_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path))
    assert load_result("kind", "key") is None
    store_result("kind", "key", b"old")
    store_result("kind", "key", b"new")
    assert load_result("kind", "key") == b"new"
    path = tmp_path / "kind" / "key"
    path.write_bytes(path.read_bytes()[:-1])
    assert load_result("kind", "key") is None
    monkeypatch.setenv("RESDET_CACHE", str(path))  # a file: nothing can be kept there
    store_result("kind", "key", b"new")
    assert load_result("kind", "key") is None
