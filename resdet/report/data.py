"""What a report says, as plain numbers and words: `page.render` draws it, and computes nothing.

Everything but the pictures' bytes is a number, text, list or None, so that the page can embed a
report as JSON (`as_plain`). A section without content is an empty list or None; `Report.notes`
and `RunReport.notes` give the reason where a reader may miss it.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

Cell = str | float | int | None
"""None is a value that does not exist, such as the AP of a class without objects."""

BACKGROUND = "background"
"""The last row and column of a detector's confusion matrix."""


@dataclass(frozen=True)
class Fact:
    """One line of a list of names and values."""

    name: str
    value: str
    note: str = ""
    """A sentence of explanation."""


@dataclass(frozen=True)
class Table:
    """Numbers in rows and columns. Fractions of 1, or percents if a name ends in % or _percent."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    """One cell for each column; the first names the row."""
    note: str = ""
    bars: str | None = None
    """The column, of fractions of 1 or percents, that is drawn as bars beside the rows."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    x: list[float]
    y: list[float | None]
    """As many as `x`; None leaves a gap."""


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis."""

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    y_range: tuple[float, float] | None = None
    """None fits the values."""
    mark_x: float | None = None
    """A value of x with a vertical line, such as the best threshold."""
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Named amounts: a histogram, or TIDE's errors."""

    title: str
    x_label: str
    y_label: str
    labels: list[str]
    values: Sequence[float]
    note: str = ""


@dataclass(frozen=True)
class ConfigDifference:
    """A key whose value is not the one it is compared with."""

    key: str
    base: str
    """YAML of the default, of the base file's value or of the first run's."""
    value: str


@dataclass(frozen=True)
class DataStatistics:
    """The images and objects of one part of the data."""

    name: str
    """data.train, data.val or held out."""
    facts: list[Fact]
    classes: Table | None
    """Objects and images of each class."""
    bars: list[Bars]
    """Sizes of objects, aspect ratios, objects per image."""


@dataclass(frozen=True)
class Confidence:
    """What a score threshold does: precision, recall and F1 over it, at IoU .50."""

    kind: str
    """bbox or segm."""
    chart: Chart
    """Over all classes together."""
    best_threshold: float
    """The score with the best F1 over all classes together."""
    best_f1: float
    classes: Table
    """Best threshold, F1, precision and recall of each class."""


@dataclass(frozen=True)
class Confusion:
    """Counts by true class (row) and predicted class (column)."""

    kind: str
    """bbox, segm, or classes for a classifier."""
    names: list[str]
    """Of rows and columns; for detectors the last is BACKGROUND: missed objects are in its column,
    detections without an object in its row."""
    matrix: list[list[int]]
    """Square; with many classes only those of the most confused pairs, as `note` says."""
    pairs: Table
    """The most confused pairs of classes."""
    note: str = ""
    """IoU and score at which a detection counts; which classes are shown."""


@dataclass(frozen=True)
class ErrorType:
    """One of TIDE's kinds of errors."""

    name: str
    """Cls, Loc, Both, Dupe, Bkg or Miss."""
    words: str
    """What it is, in a sentence."""
    delta: float
    """The AP50 that would be gained by fixing it, as a fraction of 1."""
    count: int


@dataclass(frozen=True)
class Errors:
    """TIDE (Bolya et al. 2020)."""

    kind: str
    ap50: float
    types: list[ErrorType]


@dataclass(frozen=True)
class CalibrationBin:
    """Detections or images with scores of one interval."""

    low: float
    high: float
    score: float
    """Their mean score."""
    accuracy: float
    """The share of them that is right."""
    count: int


@dataclass(frozen=True)
class Calibration:
    """Whether scores are probabilities."""

    kind: str
    ece: float
    """Expected calibration error: mean |score - accuracy|, by the number in the bins."""
    mce: float
    """The largest |score - accuracy| of a bin."""
    bins: list[CalibrationBin]
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """An object or a detection in a picture."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the picture."""
    label: int
    """Row of `RunReport.class_names`."""
    status: str
    """Objects: found, missed or crowd. Detections: correct, ignored, or one of TIDE's errors:
    Cls, Loc, Both, Dupe, Bkg."""
    score: float | None = None
    """Of detections, 0..1."""
    iou: float | None = None
    """With the object or detection that it matches or overlaps best."""
    partner: int | None = None
    """Row of that object (of a detection) or detection of the same run (of an object)."""
    path: str | None = None
    """The mask as data of an SVG path in pixels of the picture; fill-rule evenodd."""
    run: int = 0
    """Detections: row of `Report.runs`."""


@dataclass(frozen=True)
class Picture:
    """An image, scaled down, with all that belongs to it."""

    name: str
    """The file, for people."""
    width: int
    height: int
    """Of the picture in pixels."""
    original: tuple[int, int]
    """(height, width) of the image in pixels."""
    jpeg: bytes
    """base64 text in `as_plain`; empty where the image could not be read or is no longer there."""
    truths: list[Mark] = field(default_factory=list)
    detections: list[Mark] = field(default_factory=list)
    """Best score first, of every run."""
    caption: str = ""
    """Classification: true class, and the best predictions with their probabilities."""


@dataclass(frozen=True)
class GalleryItem:
    """One thing to look at."""

    picture: int
    """Row of `Report.pictures`."""
    reason: str
    """Why it is here, in words with numbers."""
    truths: list[int] = field(default_factory=list)
    """Rows of the picture's truths that it is about; empty for the whole picture."""
    detections: list[int] = field(default_factory=list)
    """Rows of the picture's detections that it is about."""
    labels: list[int] = field(default_factory=list)
    """Classes that it concerns, for the class filter."""
    error: str = ""
    """One of `Mark.status`, for the error filter; empty for the whole picture."""
    score: float | None = None
    """Of its detection, for the score slider."""


@dataclass(frozen=True)
class GalleryGroup:
    """One gallery."""

    key: str
    """worst, false_positives, missed, lowest_iou, label_errors, top_losses or changed."""
    title: str
    words: str
    """What is shown and in which order."""
    items: list[GalleryItem]
    total: int
    """Of how many: `items` is the first few."""
    threshold: float | None = None
    """The score at which `items` and `total` were taken; None where they do not depend on one."""


@dataclass(frozen=True)
class RunReport:
    """One run."""

    name: str
    folder: str
    task: str
    """detection, classification or localization."""
    class_names: list[str]
    facts: list[Fact]
    """Model, data, length, time, best result, what it was evaluated with."""
    notes: list[str] = field(default_factory=list)
    """What is missing or was repaired, and what would bring it."""
    config_differences: list[ConfigDifference] = field(default_factory=list)
    """From the defaults."""
    statistics: list[DataStatistics] = field(default_factory=list)
    curves: list[Chart] = field(default_factory=list)
    """Losses, learning rate and metrics over steps."""
    metrics: Table | None = None
    """Those of eval.json; one row per kind (bbox, segm)."""
    per_class: list[Table] = field(default_factory=list)
    """One per kind."""
    precision_recall: list[Chart] = field(default_factory=list)
    confidence: list[Confidence] = field(default_factory=list)
    confusion: list[Confusion] = field(default_factory=list)
    errors: list[Errors] = field(default_factory=list)
    calibration: list[Calibration] = field(default_factory=list)
    breakdowns: list[Table] = field(default_factory=list)
    """By size, crowding, aspect ratio and place in the image."""
    gallery: list[GalleryGroup] = field(default_factory=list)
    threshold: float = 0.5
    """The score at which the page's slider starts."""


@dataclass(frozen=True)
class Significance:
    """The difference of one number between two runs."""

    metric: str
    first: float
    other: float
    delta: float
    """other - first."""
    low: float | None
    high: float | None
    """The 95 % interval of the difference; None where it was not computed."""
    verdict: str
    """In words: better, worse, or no difference beyond chance."""


@dataclass(frozen=True)
class RunComparison:
    """A run beside the first."""

    run: int
    """Row of `Report.runs`, from 1."""
    config_differences: list[ConfigDifference]
    significance: list[Significance]
    method: str
    """How the intervals were computed, and its source."""
    changed: GalleryGroup | None
    """Images that changed most."""


@dataclass(frozen=True)
class Report:
    """The whole page."""

    title: str
    created: str
    """When, and by which version of resdet."""
    runs: list[RunReport]
    """At least one."""
    pictures: list[Picture] = field(default_factory=list)
    """Of all galleries; each image is there once."""
    metrics: Table | None = None
    """Several runs side by side: one row per run."""
    comparisons: list[RunComparison] = field(default_factory=list)
    """One for each run after the first."""
    notes: list[str] = field(default_factory=list)


def as_plain(value: Any) -> Any:
    """A report or any part of it as dicts, lists, numbers and text; bytes become base64."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, list | tuple):
        return [as_plain(each) for each in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value
