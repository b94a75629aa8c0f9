"""Loading training data compared with other programs, on one core, in images per second."""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from resdet.data.workers import use_one_core
from resdet.errors import UserError
from resdet.files.images import read_image
from resdet.files.json import read_json
from resdet.files.walk import walk
from tools.benchmark.data_others import (
    CROP_SIDE,
    FLIP_PROB,
    LSJ_SCALE,
    LSJ_SIZE,
    MAX_SIZE,
    MEAN,
    SHORT_EDGES,
    STD,
    batches,
    shuffled,
)
from tools.benchmark.report import Row, report
from tools.benchmark.turns import Contender, Step, Timing, take_turns

logger = logging.getLogger("resdet")

MODES = ("multi_scale", "lsj")
OBJECTS = 20
"""Objects with a mask in each image of the detection work."""
BATCH_SIZE, CLS_BATCH_SIZE = 2, 32
LONG_SIDE, QUALITY = 500, 90
"""Of the larger images to classify: ImageNet's files are 500×375 pixels on average."""
OTHERS = ("torchvision", "detectron2", "albumentations")
HERE, THERE = "tools.benchmark.data", "tools.benchmark.data_others"

WORDS = {
    "multi_scale": f"short side {SHORT_EDGES[0]}–{SHORT_EDGES[-1]}, long ≤ {MAX_SIZE}, flip",
    "lsj": f"large-scale jitter {LSJ_SCALE[0]:g}–{LSJ_SCALE[1]:g} at {LSJ_SIZE}, flip",
}


def benchmark_detection_data(
    images: str | Path,
    annotations: str | Path,
    *,
    modes: Sequence[str] = MODES,
    against: Sequence[str] = OTHERS,
    objects: int = OBJECTS,
    rounds: int = 5,
    steps: int = 25,
    out: str | Path | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Time the loading of training batches of 2 images with masks, and print a table a mode.

    The images of a COCO file that have polygons, each with exactly `objects` of its objects, the
    same for all: an image's first ones, or its own over and over where it has fewer. Ours is all
    that a worker does, to the padded batch. The others are described in `data_others`; those of
    `against` that are not installed are left out. One process and one thread each.

    Args:
        images: a folder; annotations: its COCO file.
        modes: multi_scale, lsj.
        against: some of torchvision, detectron2, albumentations.
        rounds, steps: of the turns; a step is a batch.
        out: folder for benchmark_data_<mode>.json and .png.
    Returns:
        Of each mode, the rows of the table.
    Raises:
        UserError: an unknown name, or no object with polygons.
    """
    _check_names(modes, MODES, "mode")
    _check_names(against, OTHERS, "program")
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "annotations.json"
        count = write_annotations(annotations, file, objects)
        for mode in modes:
            contenders = _detection_contenders(str(images), str(file), mode, against)
            timings = take_turns(
                contenders, rounds=rounds, steps=steps, warmup=5, device="cpu", threads=1
            )
            found[mode] = _report(
                timings,
                BATCH_SIZE,
                title=f"detection data, {objects} objects per image, one core: {WORDS[mode]}",
                name=f"data_{mode}",
                out=out,
                details={
                    "images": str(images),
                    "annotations": str(annotations),
                    "num_images": count,
                    "objects": objects,
                    "batch_size": BATCH_SIZE,
                    "rounds": rounds,
                    "steps": steps,
                },
            )
    return found


def _check_names(given: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"benchmark data: no {what} {name!r}; give some of {', '.join(known)}")


def _detection_contenders(
    images: str, annotations: str, mode: str, against: Sequence[str]
) -> list[Contender]:
    given = {
        "images": images,
        "annotations": annotations,
        "mode": mode,
        "batch_size": BATCH_SIZE,
    }
    contenders = []
    if "torchvision" in against:
        make = f"{THERE}:torchvision_detection"
        contenders.append(Contender("torchvision", make, given))
        if mode == "multi_scale":
            worker = Contender("torchvision's worker", make, {**given, "resize": False})
            contenders.append(worker)
    for name in ("detectron2", "albumentations"):
        if name not in against:
            continue
        if importlib.util.find_spec(name) is None:
            logger.info(f"{name}: not installed, left out")
            continue
        contenders.append(Contender(name, f"{THERE}:{name}_detection", given))
    return [*contenders, Contender("resdet", f"{HERE}:our_detection", given)]


def our_detection(images: str, annotations: str, mode: str, batch_size: int) -> tuple[Step, str]:
    """Samples and their batch, as a worker of `train_det.py` makes them."""
    from resdet.data.detection.batches import collate
    from resdet.data.detection.dataset import read_dataset
    from resdet.data.detection.resizes import LargeScaleJitter, ShortEdge
    from resdet.data.detection.transforms import TrainTransform

    use_one_core()
    resize: ShortEdge | LargeScaleJitter = (
        LargeScaleJitter(LSJ_SIZE, LSJ_SCALE) if mode == "lsj" else ShortEdge(SHORT_EDGES, MAX_SIZE)
    )
    transform = TrainTransform(resize=resize, flip_prob=FLIP_PROB)
    dataset = read_dataset(images, annotations, transform=transform)
    keys = batches(len(dataset), batch_size)
    epochs = iter(range(10**9))

    def step() -> Any:
        epoch = next(epochs)
        return collate([dataset[(epoch, index)] for index in next(keys)])

    return step, "masks in their boxes, padded batch"


def write_annotations(source: str | Path, target: Path, objects: int) -> int:
    """A COCO file of the images with polygons, `objects` each; returns their number.

    Raises:
        UserError: the file can't be read, or has no object with polygons.
    """
    data = read_json(source, "COCO annotations")
    of_image: dict[Any, list[dict[str, Any]]] = {}
    for each in data["annotations"]:
        outline = each.get("segmentation")
        if isinstance(outline, list) and outline and not each.get("iscrowd"):
            of_image.setdefault(each["image_id"], []).append(each)
    images = [each for each in data["images"] if each["id"] in of_image]
    if not images:
        raise UserError(
            f"{source}: no object has polygons, which this benchmark is about; give a COCO file of "
            "instance segmentation"
        )
    chosen = []
    for image in images:
        own = of_image[image["id"]]
        chosen += [own[number % len(own)] for number in range(objects)]
    annotations = [{**each, "id": number} for number, each in enumerate(chosen, start=1)]
    written = {
        "images": images,
        "annotations": annotations,
        "categories": data["categories"],
    }
    target.write_text(json.dumps(written), encoding="utf-8")
    return len(images)


def benchmark_cls_data(
    root: str | Path,
    *,
    photos: str | Path | None = None,
    rounds: int = 5,
    steps: int = 8,
    out: str | Path | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Time the loading of training batches of 32 crops of 224 pixels, and print a table a work.

    A random resized crop and a flip, by torchvision's references with Pillow and by the code that
    `train_cls.py` runs in a worker. Both up to the normalised float batch, for which ours is
    normalised whole (on a device in training, here on the same core), and up to the uint8 batch.

    Args:
        root: class folders of images.
        photos: a folder of larger images, which are made 500 pixels long (JPEG, quality 90) and
            timed as a second work; None leaves that out.
        rounds, steps: of the turns; a step is a batch.
        out: folder for benchmark_data_cls.json, benchmark_data_cls_500.json and their charts.
    Returns:
        By root and photos, the rows of the table.
    Raises:
        UserError: `photos` holds no image, and what reading `root` raises.
    """
    found = {"root": _time_cls(str(root), str(root), "cls", rounds, steps, out)}
    if photos is not None:
        with tempfile.TemporaryDirectory() as folder:
            write_photos(photos, Path(folder))
            words = f"{photos} at {LONG_SIDE} pixels"
            found["photos"] = _time_cls(folder, words, f"cls_{LONG_SIDE}", rounds, steps, out)
    return found


def _time_cls(
    root: str, words: str, name: str, rounds: int, steps: int, out: str | Path | None
) -> list[dict[str, Any]]:
    contenders = []
    for normalize, kind in ((True, "normalised"), (False, "uint8")):
        given = {"root": root, "batch_size": CLS_BATCH_SIZE, "normalize": normalize}
        make = f"{THERE}:torchvision_classification"
        contenders.append(Contender(f"torchvision, {kind}", make, given))
        contenders.append(Contender(f"resdet, {kind}", f"{HERE}:our_classification", given))
    timings = take_turns(contenders, rounds=rounds, steps=steps, warmup=2, device="cpu", threads=1)
    return _report(
        timings,
        CLS_BATCH_SIZE,
        title=f"classification data, crops of {CROP_SIDE} pixels, one core: {words}",
        name=f"data_{name}",
        out=out,
        details={
            "root": words,
            "batch_size": CLS_BATCH_SIZE,
            "rounds": rounds,
            "steps": steps,
        },
    )


def our_classification(root: str, batch_size: int, normalize: bool) -> tuple[Step, str]:
    """Samples and their batch, as a worker of `train_cls.py` makes them."""
    from resdet.data.classification.dataset import open_images
    from resdet.data.classification.samples import collate_classification
    from resdet.data.classification.transforms import (
        ClassificationTrainTransform,
        RandomResizedCrop,
    )
    from resdet.ops.pixels import normalize_pixels

    use_one_core()
    transform = ClassificationTrainTransform(
        CROP_SIDE, crop=RandomResizedCrop(), flip_prob=FLIP_PROB
    )
    dataset = open_images(root, transform=transform)
    order = shuffled(len(dataset))
    keys = batches(len(order), batch_size)
    epochs = iter(range(10**9))
    mean = torch.tensor(MEAN)[:, None, None] * 255
    std = torch.tensor(STD)[:, None, None] * 255

    def step() -> Any:
        epoch = next(epochs)
        batch = collate_classification([dataset[(epoch, order[index])] for index in next(keys)])
        return normalize_pixels(batch.images, mean, std) if normalize else batch

    return step, ""


def write_photos(source: str | Path, target: Path) -> int:
    """JPEG copies, 500 pixels long, of a folder's images in two class folders; their number.

    Raises:
        UserError: there are no two images, or one cannot be read; it is named.
    """
    count = 0
    for name in ("even", "odd"):
        (target / name).mkdir(parents=True, exist_ok=True)
    for path in walk(source, (".jpg", ".jpeg", ".png")):
        picture = Image.fromarray(read_image(path))
        scale = LONG_SIDE / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        resized = picture.resize(size, Image.Resampling.LANCZOS)
        resized.save(target / ("even", "odd")[count % 2] / f"{count:06}.jpg", quality=QUALITY)
        count += 1
    if count < 2:
        raise UserError(f"{source}: fewer than two images (*.jpg, *.jpeg, *.png); give a folder")
    return count


def _report(
    timings: Sequence[Timing],
    items: int,
    *,
    title: str,
    name: str,
    out: str | Path | None,
    details: dict[str, Any],
) -> list[dict[str, Any]]:
    """The table; below it, how many times as fast as each other row ours of the same kind is."""
    seconds = {each.name: each.seconds for each in timings if each.seconds}
    gains = {
        name: taken / seconds[ours]
        for name, taken in seconds.items()
        if not name.startswith("resdet")
        and (ours := "resdet" + "".join(name.partition(",")[1:])) in seconds
    }
    rows = [Row(each, items, is_ours=each.name.startswith("resdet")) for each in timings]
    details = {**details, "resdet_is_times_as_fast_as": gains}
    found = report(rows, title=title, unit="images", name=name, out=out, details=details)
    for other, gain in gains.items():
        print(f"resdet is {gain:.2f} × as fast as {other}")
    return found
