"""What is reported where a package cannot be imported."""

import pytest

from resdet.dependencies import explain_import_error


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
