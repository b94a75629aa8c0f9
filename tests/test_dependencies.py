"""What is reported where a package cannot be imported."""

import json
from pathlib import Path

import pytest

from resdet.dependencies import explain_import_error, import_extra
from resdet.errors import UserError


@pytest.mark.parametrize(
    "problem",
    [
        "libtorch_cpu.so: failed to map segment from shared object",
        "libgomp.so.1: cannot allocate memory in static TLS block",
    ],
)
def test_too_little_memory(problem: str) -> None:
    text = explain_import_error(ImportError(problem, name="torch._C"))
    assert text is not None and problem in text and "ulimit -v" in text


def test_an_optional_package_that_is_absent_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError, match=r"x\.onnx needs the package no_such_runtime, which is not "
    ):
        import_extra("no_such_runtime.session", "export", "x.onnx")
    (tmp_path / "broken_runtime.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"does not load \(No module.*pip install 'resdet\[export\]'"
    ):
        import_extra("broken_runtime", "export", "x.onnx")
    assert import_extra("json", "export", "x.onnx") is json
