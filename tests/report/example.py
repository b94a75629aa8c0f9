"""Hand-made reports, with everything a page can draw: detection, two runs, classification."""

import io
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from resdet.report.data import (
    BACKGROUND,
    Bars,
    Calibration,
    CalibrationBin,
    Cell,
    Chart,
    Confidence,
    ConfigDifference,
    Confusion,
    DataStatistics,
    Errors,
    ErrorType,
    Fact,
    GalleryGroup,
    GalleryItem,
    Mark,
    Picture,
    Report,
    RunComparison,
    RunReport,
    Series,
    Significance,
    Table,
)

BLOOD = ["RBC", "WBC", "Platelets"]
HOSTILE = [
    "</script><script>window.stolen = 1</script>",
    "<img src=x onerror='window.stolen = 1'>",
    "\x1b[31mred\x1b[0m \u202egnp.exe",
    "quotes \" ' & ampersand; {braces} \udc80",
]
SHAPES = [(36, 30, 96, 90), (150, 40, 230, 118), (60, 150, 130, 214), (210, 160, 290, 232)]
"""Boxes of four objects in each picture of 320 x 240 pixels."""


def jpeg(seed: int) -> bytes:
    """A picture with round things at SHAPES."""
    image = Image.new("RGB", (320, 240), (214, 205, 190 + seed % 40))
    draw = ImageDraw.Draw(image)
    for i, shape in enumerate(SHAPES):
        draw.ellipse(shape, fill=(150 - 20 * i, 70 + 11 * (seed % 9), 90 + 25 * i))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=70)
    return out.getvalue()


def octagon(box: Sequence[float]) -> str:
    x1, y1, x2, y2 = box
    a, b = (x2 - x1) * 0.3, (y2 - y1) * 0.3
    points = (
        (x1 + a, y1), (x2 - a, y1), (x2, y1 + b), (x2, y2 - b),
        (x2 - a, y2), (x1 + a, y2), (x1, y2 - b), (x1, y1 + b),
    )  # fmt: skip
    return "M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in points) + "Z"


def shifted(box: Sequence[float], by: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return (x1 + by, y1 + by / 2, x2 + by, y2 + by / 2)


def picture(index: int, names: Sequence[str], runs: int, name: str | None = None) -> Picture:
    """Four objects; of each run two found, one in a poor box, two missed, one on background."""
    truths, detections = [], []
    label = index % len(names)
    for run in range(runs):
        for i, box in enumerate(SHAPES):
            found = i < 2
            truths.append(
                Mark(
                    box,
                    (label + i) % len(names),
                    "found" if found else "missed",
                    partner=4 * run + i if found else None,
                    path=octagon(box),
                    run=run,
                )
            )
        for i, (status, by, score) in enumerate(
            [("correct", 2, 0.97), ("correct", 3 + run, 0.91), ("Loc", 30, 0.7), ("Bkg", 0, 0.55)]
        ):
            place = shifted(SHAPES[i], by) if status != "Bkg" else (8.0, 100.0, 40.0, 140.0)
            detections.append(
                Mark(
                    place,
                    (label + i) % len(names),
                    status,
                    score=score - 0.004 * index,
                    iou=None if status == "Bkg" else 0.9 - 0.02 * by,
                    partner=None if status == "Bkg" else 4 * run + i,
                    path=octagon(place),
                    run=run,
                )
            )
    return Picture(
        name or f"val/BloodImage_{index:05d}.jpg",
        320,
        240,
        (480, 640),
        jpeg(index),
        truths,
        detections,
    )


def gallery(pictures: list[Picture], first: int) -> list[GalleryGroup]:
    """Worst images, false positives (Loc and Bkg), missed objects; `first`: the run's first row."""
    items = []
    for i, each in enumerate(pictures):
        for row, error in ((first + 2, "Loc"), (first + 3, "Bkg")):
            mark = each.detections[row]
            items.append(
                GalleryItem(
                    i,
                    f"{error} error with score {mark.score:.2f}",
                    detections=[row],
                    truths=[first + 2] if error == "Loc" else [],
                    labels=[mark.label],
                    error=error,
                    score=mark.score,
                )
            )
    missed = [
        GalleryItem(
            i,
            "no detection overlaps it",
            truths=[first + 3],
            labels=[each.truths[first + 3].label],
            error="missed",
        )
        for i, each in enumerate(pictures)
    ]
    worst = [GalleryItem(i, "F1 .50: 2 correct, 2 wrong, 2 missed") for i in range(len(pictures))]
    return [
        GalleryGroup("worst", "Worst images", "Lowest F1 first.", worst, 73, 0.42),
        GalleryGroup("false_positives", "False positives", "Best score first.", items, len(items)),
        GalleryGroup("missed", "Missed objects", "Largest first.", missed, len(missed), 0.42),
        GalleryGroup("label_errors", "Likely label errors", "Confident disagreement.", [], 0),
    ]


def curve(name: str, points: int, lift: float) -> Series:
    x = [i / (points - 1) for i in range(points)]
    return Series(name, x, [max(0.0, 1 - lift * each**4) if each < 0.97 else None for each in x])


def run_report(name: str, names: list[str], pictures: list[Picture], first: int) -> RunReport:
    draw = random.Random(len(names) + first)
    per_class: list[list[Cell]] = [
        [each, draw.randint(50, 900), round(draw.uniform(0.3, 0.7), 6), draw.uniform(0.7, 1)]
        for each in names
    ]
    size = len(names) + 1
    matrix = [
        [draw.randint(100, 800) if i == j else draw.choice([0, 0, 1, 9, 40]) for j in range(size)]
        for i in range(size)
    ]
    pairs: list[list[Cell]] = [
        [names[i], names[(i + 1) % len(names)], draw.randint(5, 40), draw.random() / 5]
        for i in range(min(len(names), 10))
    ]
    scores = [i / 50 for i in range(51)]
    f1 = [0.86 - abs(each - 0.42) ** 2 * 1.5 for each in scores]
    bins = [
        CalibrationBin(i / 10, (i + 1) / 10, i / 10 + 0.05, min(1.0, 0.09 * i + 0.01), 40 + 31 * i)
        for i in range(10)
    ]
    steps = [float(20 * i) for i in range(1, 60)]
    delta = {"Cls": 0.004, "Loc": 0.067, "Both": 0.0, "Dupe": 0.0015, "Bkg": 0.0038, "Miss": 0.043}
    words = {
        "Cls": "an object, with the wrong class",
        "Loc": "the right class, with too little overlap",
        "Both": "the wrong class and too little overlap",
        "Dupe": "one more detection of a found object",
        "Bkg": "no object there",
        "Miss": "objects without any detection",
    }
    return RunReport(
        name,
        f"runs/{name}",
        "detection",
        names,
        [
            Fact("Model", "Mask R-CNN, ResNet-50-FPN", "44.1 M parameters"),
            Fact("Data", "bccd: 292 images for training, 73 for validation"),
            Fact("Training", "12 epochs, 876 steps, batches of 4"),
            Fact("Time", "48 min 12 s"),
            Fact("Evaluated", "best.pt, step 803"),
        ],
        notes=["2 images of data.val could not be read and are left out."],
        config_differences=[
            ConfigDifference("optim.lr", "0.02", "0.005"),
            ConfigDifference("data.class_map", "null", "rbc: RBC\nwbc: WBC"),
        ],
        statistics=[
            DataStatistics(
                "data.train",
                [Fact("Images", "292", "3 without objects"), Fact("Objects", "3,990")],
                Table("Classes", ["class", "objects", "images"], [[n, 900, 200] for n in names]),
                [
                    Bars("Objects per image", "objects", "images",
                         ["0", "1", "2", "3-4", "5-8", "9-16", "17-32", "33+"],
                         [3, 12, 20, 44, 80, 102, 30, 1]),
                    Bars("Sizes of objects", "side in pixels", "objects",
                         ["<16", "16-32", "32-64", "64-128", "128-256", ">256"],
                         [10, 220, 902, 1833, 1011, 14]),
                ],
            )
        ],
        curves=[
            Chart("Loss", "step", "loss",
                  [Series("loss", steps, [2 / (1 + each / 200) for each in steps]),
                   Series("val_loss", [292.0, 584.0, 876.0], [1.2, 0.9, 0.72])]),
            Chart("Learning rate", "step", "rate",
                  [Series("lr", steps, [0.005 * (1 - each / 1200) for each in steps])]),
        ],
        metrics=Table(
            "Metrics",
            ["kind", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"],
            [["bbox", 0.481377, 0.865072, 0.491397, None, 0.5202, 0.6881, 0.558004],
             ["segm", 0.501205, 0.857875, 0.52403, None, 0.5202, 0.6881, 0.571783]],
        ),
        per_class=[Table("Per class", ["class", "objects", "AP", "AP50"], per_class, bars="AP")],
        precision_recall=[
            Chart("bbox at IoU .50", "recall", "precision",
                  [curve("all classes", 101, 0.3),
                   *(curve(n, 101, draw.uniform(0.1, 0.9)) for n in names)], (0.0, 1.0)),
        ],
        confidence=[
            Confidence(
                "bbox",
                Chart("bbox: precision, recall and F1 by score", "score", "value",
                      [Series("precision", scores, [0.4 + 0.6 * each for each in scores]),
                       Series("recall", scores, [1 - each**3 for each in scores]),
                       Series("F1", scores, list(f1))], (0.0, 1.0), 0.42),
                0.42, 0.86,
                Table("Best threshold of each class",
                      ["class", "threshold", "F1", "precision", "recall"],
                      [[n, draw.random(), draw.random(), draw.random(), 1.0] for n in names]),
            )
        ],
        confusion=[
            Confusion("bbox", [*names, BACKGROUND], matrix,
                      Table("Most confused", ["true", "predicted", "count", "share"], pairs),
                      "At IoU .50 and scores from .42.")
        ],
        errors=[Errors("bbox", 0.865, [ErrorType(k, words[k], v, int(4000 * v))
                                       for k, v in delta.items()])],
        calibration=[Calibration("bbox", 0.0903, 0.2927, bins, "A detection is right at IoU .50.")],
        breakdowns=[
            Table("By size", ["size", "objects", "AP", "recall"],
                  [["small", 120, 0.31, 0.6], ["medium", 640, 0.47, 0.83],
                   ["large", 279, 0.6, 0.9]],
                  bars="AP"),
            Table("By crowding", ["neighbours", "objects", "recall"],
                  [["0", 300, 0.93], ["1-2", 420, 0.85], ["3+", 319, 0.7]], bars="recall"),
        ],
        gallery=gallery(pictures, first),
        threshold=0.42,
    )  # fmt: skip


def detection(num_classes: int = 3, num_pictures: int = 12) -> Report:
    """One detector with masks."""
    names = BLOOD if num_classes == 3 else [f"class number {i}" for i in range(num_classes)]
    pictures = [picture(i, names, 1) for i in range(num_pictures)]
    run = run_report("bccd_mask_r50", names, pictures, 0)
    return Report("bccd_mask_r50", "30 November 2026, resdet 0.9", [run], pictures)


def comparison() -> Report:
    """Two runs on the same pictures."""
    pictures = [picture(i, BLOOD, 2) for i in range(6)]
    runs = [run_report(f"bccd_r50_{seed}", BLOOD, pictures, 4 * seed) for seed in (0, 1)]
    changed = [
        GalleryItem(i, f"F1 .{90 - i} becomes .{50 + i}", labels=[each.truths[0].label])
        for i, each in enumerate(pictures)
    ]
    beside = RunComparison(
        1,
        [ConfigDifference("train.epochs", "12", "24")],
        [
            Significance("bbox AP", 0.481, 0.502, 0.021, 0.008, 0.034, "better"),
            Significance("bbox AP50", 0.865, 0.861, -0.004, -0.013, 0.005,
                         "no difference beyond chance"),
            Significance("bbox AP75", 0.49, 0.46, -0.03, None, None, "worse"),
        ],
        "Paired bootstrap over 1,000 draws of the images.",
        GalleryGroup("changed", "Changed", "Largest change of F1 first.", changed, 6),
    )  # fmt: skip
    metrics = Table(
        "Metrics", ["run", "bbox AP", "AP50"], [[r.name, 0.48, 0.86] for r in runs], bars="bbox AP"
    )
    return Report("2 runs", "30 November 2026, resdet 0.9", runs, pictures, metrics, [beside])


def classification() -> Report:
    """A classifier: captions instead of marks."""
    names = ["ants", "bees"]
    pictures = [
        Picture(f"val/ants/{i}.jpg", 320, 240, (240, 320), jpeg(i) if i else b"",
                caption="True: ants\nbees 87.1 %\nants 12.9 %")
        for i in range(5)
    ]  # fmt: skip
    items = [GalleryItem(i, f"loss {3 - i / 2:.2f}", labels=[i % 2]) for i in range(5)]
    run = RunReport(
        "hymenoptera",
        "runs/hymenoptera",
        "classification",
        names,
        [Fact("Model", "ResNet-18"), Fact("Data", "hymenoptera: 244 and 153 images")],
        metrics=Table("Metrics", ["", "top1_%", "loss"], [["val", 94.117, 0.1873]]),
        per_class=[
            Table("Per class", ["class", "images", "accuracy_%"],
                  [["ants", 70, 91.4], ["bees", 83, 96.4]], bars="accuracy_%")
        ],
        confusion=[
            Confusion("classes", names, [[64, 6], [3, 80]],
                      Table("Most confused", ["true", "predicted", "count"],
                            [["ants", "bees", 6], ["bees", "ants", 3]]))
        ],
        gallery=[GalleryGroup("top_losses", "Top losses", "Highest loss first.", items, 153)],
    )  # fmt: skip
    return Report("hymenoptera", "30 November 2026, resdet 0.9", [run], pictures)


def bare() -> Report:
    """A run of which little is known."""
    metrics = Table("Metrics", ["kind", "AP", "images"], [["bbox", None, 12]])
    run = RunReport("bare", "runs/bare", "detection", [], [], metrics=metrics)
    return Report("bare", "", [run], notes=["There are no predictions."])


def hostile() -> Report:
    """Names that try to break out of the page."""
    pictures = [picture(i, HOSTILE, 1, name) for i, name in enumerate(HOSTILE)]
    run = run_report(HOSTILE[0], list(HOSTILE), pictures, 0)
    return Report(HOSTILE[0], HOSTILE[1], [run], pictures, notes=list(HOSTILE))
