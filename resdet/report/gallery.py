"""Galleries of a detector's report: candidates become items, and their images pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from resdet.report.analysis import Analysis
from resdet.report.candidates import Candidate, Group, labels_of
from resdet.report.data import GalleryGroup, GalleryItem, Mark
from resdet.report.matching import Ints
from resdet.report.pictures import Album, Marks, Path, scaled_box

MAX_MARKS = 150
"""Detections of an image beside those that an item is about: the best scores."""
MAX_TRUTHS = 400
"""Objects, likewise the first. Runs side by side share both numbers."""


class Shown:
    """The images of one run that are shown, and which detections and objects are marked."""

    def __init__(
        self,
        analysis: Analysis,
        album: Album,
        run: int,
        names: Sequence[str],
        num_runs: int = 1,
    ) -> None:
        """`run` is the row of the report's run, of `num_runs` that share what can be marked;
        `names` are the classes of the whole report."""
        self.analysis, self.album, self.run = analysis, album, run
        self.matches, self.images = analysis.shown, analysis.images
        self.labels = [names.index(name) for name in self.matches.truth.class_names]
        self.marked: dict[int, tuple[Ints, Ints]] = {}
        """By image: rows of its marked objects and detections, in the order of the marks."""
        self.limits = MAX_TRUTHS // num_runs, MAX_MARKS // num_runs
        self.own_marks: dict[int, Marks] = {}
        self.groups: Sequence[Group] = ()

    def choose(self, groups: Sequence[Group]) -> None:
        """Ask for the images of all groups in turn, and for what is marked in them."""
        self.groups = groups
        wanted: dict[int, tuple[set[int], set[int]]] = {}
        for group in groups:
            for item in group.items:
                objects, detections = wanted.setdefault(item.image, (set(), set()))
                objects.update(item.objects)
                detections.update(item.detections)
        longest = max((len(group.items) for group in groups), default=0)
        for place in range(longest):
            for group in groups:
                if place < len(group.items):
                    image = group.items[place].image
                    self.add(image, *wanted[image])

    def add(
        self, image: int, objects: Iterable[int] = (), detections: Iterable[int] = ()
    ) -> int | None:
        """The row of an image's picture, in which some objects and detections have to be marked;
        None where there are enough pictures."""
        key = self.images.key(image)
        row = self.album.row(key, partial(self.images.entry, image))
        if row is None or (image in self.marked and not objects and not detections):
            return row
        if image not in self.marked:
            marks = Marks(partial(self._marks, image), partial(self._counts, image))
            self.album.entries[key].marks.append(marks)
            self.own_marks[image] = marks
        own = _first(self.matches.objects_in(image), self.limits[0], set(objects))
        found = _first(self.matches.detections_in(image), self.limits[1], set(detections))
        self.marked[image] = own, found
        return row

    def galleries(self) -> list[GalleryGroup]:
        """The chosen galleries, with the items whose images have a picture; once every run has
        chosen its own, as the marks of all runs share a picture."""
        return [
            GalleryGroup(
                *(each.key, each.title, each.words, self._items(each), each.total, each.threshold)
            )
            for each in self.groups
            if each.items
        ]

    def _items(self, group: Group) -> list[GalleryItem]:
        items = []
        for each in group.items:
            if each.image not in self.marked:
                continue
            objects, detections = (rows.tolist() for rows in self.marked[each.image])
            row = self.album.rows[self.images.key(each.image)]
            before = self._before(each.image)
            items.append(
                GalleryItem(
                    row,
                    each.reason,
                    [before[0] + objects.index(one) for one in each.objects],
                    [before[1] + detections.index(one) for one in each.detections],
                    self._labels(each),
                    each.error,
                    each.score,
                )
            )
        return items

    def _counts(self, image: int) -> tuple[int, int]:
        objects, detections = self.marked[image]
        return len(objects), len(detections)

    def _before(self, image: int) -> tuple[int, int]:
        """Marks of other runs that come before those of this one."""
        every = self.album.entries[self.images.key(image)].marks
        counts = [marks.counts() for marks in every[: every.index(self.own_marks[image])]]
        return sum(own for own, _ in counts), sum(found for _, found in counts)

    def _labels(self, item: Candidate) -> list[int]:
        """The classes of an item; of a whole image those of its objects."""
        if not item.objects and not item.detections:
            return self.labels_in(item.image)
        own = labels_of(self.matches, item.objects, item.detections)
        return sorted({self.labels[label] for label in own})

    def labels_in(self, image: int) -> list[int]:
        """The classes of an image's objects."""
        own = labels_of(self.matches, self.matches.objects_in(image).tolist(), ())
        return sorted({self.labels[label] for label in own})

    def _marks(self, image: int, scale: float, path: Path) -> tuple[list[Mark], list[Mark]]:
        matches, truth, table = self.matches, self.matches.truth, self.matches.detections
        objects, detections = self.marked[image]
        kinds, ious, nearest = matches.error_types(detections)
        places = {int(row): place for place, row in enumerate(objects)}
        of_detection = {int(row): place for place, row in enumerate(detections)}
        has_masks = matches.kind == "segm"
        truths = []
        for row in objects.tolist():
            found = int(matches.found_by[row])
            status = "crowd" if truth.crowd[row] else "found" if found >= 0 else "missed"
            truths.append(
                Mark(
                    scaled_box(truth.boxes_xywh[row], scale),
                    self.labels[int(truth.labels[row])],
                    status,
                    iou=None if found < 0 else round(float(matches.match_ious[found]), 3),
                    partner=of_detection.get(found),
                    path=path(truth.rles[row]) if has_masks else None,
                    run=self.run,
                )
            )
        marks = []
        for place, row in enumerate(detections.tolist()):
            is_right = bool(matches.is_right[row])
            status = "correct" if is_right else kinds[place] if matches.is_wrong[row] else "ignored"
            iou = matches.match_ious[row] if is_right else ious[place]
            about = int(matches.object_of[row] if is_right else nearest[place])
            marks.append(
                Mark(
                    scaled_box(table.boxes[row], scale),
                    self.labels[int(table.labels[row])],
                    status,
                    round(float(table.scores[row]), 4),
                    None if about < 0 else round(float(iou), 3),
                    places.get(about),
                    path(table.rles[row]) if has_masks and table.rles is not None else None,
                    self.run,
                )
            )
        return truths, marks


def _first(rows: Ints, most: int, needed: set[int]) -> Ints:
    """The first rows, and those that are needed."""
    keep = np.isin(rows, list(needed))
    keep[:most] = True
    return rows[keep]
