"""The categories of a COCO file as classes."""

from typing import Any

from resdet.data.detection.readers.coco_file import AGAIN, CocoFile
from resdet.data.ids import IdRows
from resdet.files.findings import DataError, Finding
from resdet.files.json import shown, some, whole_number

CATEGORY_KEYS = ("id", "name", "supercategory", "frequency")

TWO_CLASSES = (
    "they count as two classes, the second with its id behind its name; if they are one, give "
    "their objects one category_id"
)


class Categories:
    """Classes by category id; label k is the k-th id in ascending order.

    Raises:
        DataError: there are none, or an id is not a whole number or that of two classes.
    """

    def __init__(self, file: CocoFile, findings: list[Finding]) -> None:
        self.path, self.findings = file.path, findings
        entries = [e for chunk in file.chunks("categories", CATEGORY_KEYS) for e in chunk.records]
        if not entries:
            raise DataError(f"{file.path}: has no categories; add {{id, name}} for each class")
        numbers = [self._id(position, entry) for position, entry in enumerate(entries)]
        if len(set(numbers)) < len(numbers):
            numbers, entries = self._merge_repeated(numbers, entries)
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        entries = [entries[place] for place in order]
        self.ids = [numbers[place] for place in order]
        if _is_heading(entries) and not _has_objects(file, self.ids[0]):
            self.ids, entries = self.ids[1:], entries[1:]
        self._report_forms([entry["id"] for entry in entries])
        names: dict[str, int] = {}
        for key, entry in zip(self.ids, entries, strict=True):
            own = name = self._name(key, entry)
            while name in names:
                name = f"{name} ({key})"
            if name != own:
                what = f"has the name of category {names[own]}, {shown(own)}"
                self._find(f"category {key}", what, TWO_CLASSES)
            names[name] = key
        self.names = list(names)
        self.rows = IdRows({key: label for label, key in enumerate(self.ids)})
        """Labels by id."""
        in_all = all(entry.get("frequency") in ("r", "c", "f") for entry in entries)
        self.extras: dict[str, list[Any]] = {}
        if in_all:
            self.extras["frequency"] = [entry["frequency"] for entry in entries]

    def _id(self, position: int, entry: dict[str, Any]) -> int:
        number = whole_number(entry.get("id"))
        if number is None:
            raise DataError(
                f"{self.path}: categories[{position}] needs an id (whole number) and a name, has "
                f"{shown(entry)}"
            )
        return number

    def _merge_repeated(
        self, numbers: list[int], entries: list[dict[str, Any]]
    ) -> tuple[list[int], list[dict[str, Any]]]:
        """Ids and entries with each class once, where files were joined entry by entry."""
        first: dict[int, dict[str, Any]] = {}
        for key, entry in zip(numbers, entries, strict=True):
            before = first.setdefault(key, entry)
            if before is entry:
                continue
            name, other = before.get("name"), entry.get("name")
            if not name or name != other:
                raise DataError(
                    f"{self.path}: category {key}: is given more than once, as {shown(name)} and "
                    f"{shown(other)}; give each class an id of its own"
                )
            self._find(f"category {key} ({shown(name)})", "is listed again", AGAIN)
        return list(first), list(first.values())

    def _find(self, item: str, what: str, remedy: str) -> None:
        self.findings.append(Finding(self.path, item, what, remedy))

    def _report_forms(self, given: list[Any]) -> None:
        other = [key for key in given if type(key) is not int]
        if other:
            item, what = f"categories {some(other, 3)}", "are ids as text or with a decimal point"
            self._find(item, what, "the whole numbers are taken")

    def _name(self, key: int, entry: dict[str, Any]) -> str:
        """The name as text that files can hold; the id where there is none."""
        name = entry.get("name")
        if name in (None, ""):
            return str(key)
        if not isinstance(name, (str, int, float)) or isinstance(name, bool):
            item, what = f"category {key}", f"has name {shown(name)}, not text"
            self._find(item, what, "its id is its name")
            return str(key)
        # JSON can hold halves of surrogate pairs, which no file is written with
        return str(name).encode("utf-8", "replace").decode()


def _is_heading(entries: list[dict[str, Any]]) -> bool:
    """Whether the first category only names the group of all others, as Roboflow exports it: it has
    the name of the project, or of its only class."""
    first, *others = entries
    return (
        bool(others)
        and first.get("supercategory") == "none"
        and all(entry.get("supercategory") == first.get("name") for entry in others)
    )


def _has_objects(file: CocoFile, key: int) -> bool:
    chunks = file.chunks("annotations", ["category_id"])
    return any(
        whole_number(value) == key for chunk in chunks for value in chunk.column("category_id")
    )
