"""The house rules that can be counted (docs/architecture.md): sizes of files and functions."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

MAX_FILE, MAX_FUNCTION, MAX_MEDIAN_FILE = 400, 60, 160
"""Lines."""


def sources(repo: Path) -> list[Path]:
    return [*(repo / "resdet").rglob("*.py"), *(repo / "tools").rglob("*.py")]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function, decorators included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - first + 1


def test_files_and_functions_stay_small(repo: Path) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources(repo)}
    assert not {str(path): length for path, length in lengths.items() if length > MAX_FILE}
    package = [length for path, length in lengths.items() if repo / "resdet" in path.parents]
    assert statistics.median(package) < MAX_MEDIAN_FILE
    long = [
        f"{path.relative_to(repo)}: {name} has {length} lines"
        for path in lengths
        for name, length in functions(path)
        if length > MAX_FUNCTION
    ]
    assert not long, "; ".join(long)


def test_folders_are_at_most_three_levels_deep(repo: Path) -> None:
    deepest = max(len(path.relative_to(repo).parts) - 1 for path in sources(repo))
    # resdet/data/detection/readers: three levels under the package
    assert deepest <= 4


def test_every_module_has_a_docstring(repo: Path) -> None:
    empty = [
        str(path.relative_to(repo))
        for path in (repo / "resdet").rglob("*.py")
        if len((ast.get_docstring(ast.parse(path.read_text())) or "").strip(" .")) < 10
    ]
    assert not empty, f"no docstring: {', '.join(empty)}"


def test_torchvision_is_imported_only_where_it_is_used(repo: Path) -> None:
    """It takes longer to import than torch, and classifiers need none of it."""
    at_start = {
        f"{path.relative_to(repo)}:{node.lineno}"
        for path in (repo / "resdet").rglob("*.py")
        for node in ast.parse(path.read_text()).body
        for name in imported(node)
        if name.split(".")[0] == "torchvision"
    }
    assert not at_start


def imported(node: ast.stmt) -> list[str]:
    """The modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
