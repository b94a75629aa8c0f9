"""The categories of a COCO file as classes."""

from typing import Any

from resdet.data.detection.readers.coco_file import CocoFile
from resdet.data.ids import IdRows
from resdet.files.findings import DataError, Finding
from resdet.files.json import shown, some, whole_number

CATEGORY_KEYS = ("id", "name", "frequency")


class Categories:
    """Classes by category id; label k is the k-th id in ascending order.

    Raises:
        DataError: there are none, or an id is not a whole number or given twice.
    """

    def __init__(self, file: CocoFile, findings: list[Finding]) -> None:
        self.path, self.findings = file.path, findings
        entries = [e for chunk in file.chunks("categories", CATEGORY_KEYS) for e in chunk.records]
        if not entries:
            raise DataError(f"{file.path}: has no categories; add {{id, name}} for each class")
        numbers = [self._id(position, entry) for position, entry in enumerate(entries)]
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        entries = [entries[place] for place in order]
        self.ids = [numbers[place] for place in order]
        repeated = [key for key, after in zip(self.ids, self.ids[1:], strict=False) if key == after]
        if repeated:
            raise DataError(
                f"{file.path}: category ids given more than once: {some(repeated)}; give each "
                "class an id of its own"
            )
        self._report_forms([entry["id"] for entry in entries])
        names: dict[str, None] = {}
        for key, entry in zip(self.ids, entries, strict=True):
            name = self._name(key, entry)
            while name in names:
                name = f"{name} ({key})"
            names[name] = None
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

    def _report_forms(self, given: list[Any]) -> None:
        other = [key for key in given if type(key) is not int]
        if other:
            item, what = f"categories {some(other, 3)}", "are ids as text or with a decimal point"
            self.findings.append(Finding(self.path, item, what, "the whole numbers are taken"))

    def _name(self, key: int, entry: dict[str, Any]) -> str:
        """The name as text that files can hold; the id where there is none."""
        name = entry.get("name")
        if name in (None, ""):
            return str(key)
        if not isinstance(name, (str, int, float)) or isinstance(name, bool):
            item, what = f"category {key}", f"has name {shown(name)}, not text"
            self.findings.append(Finding(self.path, item, what, "its id is its name"))
            return str(key)
        # JSON can hold halves of surrogate pairs, which no file is written with
        return str(name).encode("utf-8", "replace").decode()
