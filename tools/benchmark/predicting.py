"""Time of predict.py compared with its network alone: reading, resizing, drawing and writing."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resdet import hardware
from resdet.errors import UserError
from resdet.files.images import read_image
from resdet.inference.loading import load
from resdet.inference.predicting import DETECTION_THRESH, Options, predict_sources
from resdet.inference.sources import list_sources
from resdet.models.predict import inference_mode
from resdet.models.rcnn import RCNN
from tools.benchmark.detectors import SOURCE, save_seeded_weights
from tools.benchmark.report import Row, report
from tools.benchmark.turns import Contender, Step, take_turns

_HERE = "tools.benchmark.predicting"
SEEDED_CLASSES, SEEDED_DETECTIONS = 80, 10
"""Of random weights, whose threshold leaves so many detections in the first image."""


@dataclass(frozen=True)
class Work:
    """What both contenders do."""

    images: str
    weights: str
    source: str | None
    """As in `resdet.load`."""
    batch_size: int
    device: str
    score_thresh: float

    def load(self) -> RCNN:
        model = load(self.weights, self.source, self.device)
        if not isinstance(model, RCNN):
            raise UserError(f"--weights {self.weights}: a classifier; give a detector")
        return model


def benchmark_predict(
    images: str | Path,
    *,
    weights: str | None = None,
    score_thresh: float | None = None,
    batch_size: int = 1,
    device: str | None = None,
    rounds: int = 3,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Time what `predict.py` does with a folder, from files to drawn files, beside its network on
    the same images, read and resized before; print the table.

    Args:
        images: a folder.
        weights: a detector that `resdet.load` knows; None is a Mask R-CNN R50-FPN with random
            weights and the threshold that leaves 10 detections in the first image.
        score_thresh: 0..1; None is predict.py's own.
        batch_size: images per forward pass.
        rounds: turns of each; a turn is the whole folder.
        out: folder for benchmark_predict.json and .png.
    Returns:
        The rows of the table; the ratio of the second is the share of the network's rate.
    Raises:
        UserError: no image in the folder, or weights that are not a detector.
    """
    place = str(hardware.choose_device(device, 0))
    with tempfile.TemporaryDirectory(prefix="resdet_benchmark_") as name:
        folder = Path(name)
        threshold = DETECTION_THRESH if score_thresh is None else score_thresh
        used, source = weights, None
        if used is None:
            used, source = str(folder / "weights.pth"), SOURCE
            save_seeded_weights(Path(used), SEEDED_CLASSES, depth=50, seed=0)
        work = Work(str(images), used, source, batch_size, place, threshold)
        paths, model = _paths(images), work.load()
        if weights is None and score_thresh is None:
            work = replace(work, score_thresh=_score_at(model, paths[0], SEEDED_DETECTIONS))
        del model
        given, drawn = {"work": work}, str(folder / "out")
        contenders = [
            Contender("the network alone", f"{_HERE}:make_network", given),
            Contender("predict.py", f"{_HERE}:make_predict", {**given, "out": drawn}),
        ]
        timings = take_turns(contenders, rounds=rounds, steps=1, warmup=1, device=place)
    return report(
        [Row(each, len(paths)) for each in timings],
        title=f"predict.py, {len(paths)} images, batches of {batch_size}, {place}",
        unit="images",
        name="predict",
        out=out,
        details={
            "weights": weights or "random",
            "score_thresh": work.score_thresh,
            "device": place,
        },
    )


def _paths(images: str | Path) -> list[Path]:
    """What predict.py finds in the folder; without images there is nothing to time."""
    sources = list_sources([images], Path(images) / "none").files
    paths = [source.path for source in sources if source.path and not source.is_video]
    if len(paths) < len(sources) or not paths:
        raise UserError(f"--images {images}: give a folder of images without videos")
    return paths


def _score_at(model: RCNN, path: Path, rank: int) -> float:
    """The score of the detection of this rank, from 1; 0 where there are fewer."""
    found = model.predict(read_image(path), score_thresh=0.0)
    assert not isinstance(found, list)
    return float(found.scores[rank - 1]) if len(found.scores) >= rank else 0.0


def make_network(*, work: Work) -> tuple[Step, str]:
    """The network on all images of the folder, which are in memory at the network's size."""
    model = work.load()
    arrays = [read_image(path) for path in _paths(work.images)]
    sizes = [array.shape[:2] for array in arrays]
    prepared = [model.prepare(array) for array in arrays]
    starts = range(0, len(arrays), work.batch_size)

    def step() -> int:
        found = 0
        with inference_mode(model):
            for at in (slice(start, start + work.batch_size) for start in starts):
                batch = model.predict_prepared(prepared[at], sizes[at], work.score_thresh)
                found += sum(map(len, batch))
        return found

    return step, f"{step() / len(arrays):.1f} detections per image"


def make_predict(*, work: Work, out: str) -> Step:
    """The same from the files to the drawn files and detections.json, the model loaded before."""
    model = work.load()
    folder = Path(out)
    folder.mkdir()
    sources = list_sources([work.images], folder).files
    options = Options(work.score_thresh, work.batch_size)

    def step() -> int:
        return predict_sources(model, sources, folder, options).detections

    return step
