"""What `resdet eval-cls` runs: classifiers on their data.val, one by one and together."""

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet import hardware
from resdet.commands.evaluate_run import note_training
from resdet.config.find import own_path
from resdet.config.loading import config_to_dict
from resdet.engine.broken import failure
from resdet.errors import Incomplete, UserError, naming
from resdet.evaluation import build_evaluator
from resdet.evaluation.classification import ClassificationEvaluator, Scores
from resdet.evaluation.stored import store
from resdet.factory import build_classification_val_data, load_classifier
from resdet.factory.imports import naming_imports
from resdet.factory.network import evaluated_by
from resdet.files.exported import is_exported
from resdet.files.findings import DataError
from resdet.files.writing import WriteError, check_folder, make_folder, write_json
from resdet.inference.exported import load_exported, without_config
from resdet.inference.test_time import Images, score_images
from resdet.inference.test_time import ensemble as mean_of
from resdet.interop.weights import check_spec, checkpoint_path, is_published
from resdet.models.classifier import Classifier
from resdet.models.predict import inference_mode, precision_of
from resdet.models.views import Views, make_views
from resdet.viz.classification import plot_confusion
from resdet.viz.tables import print_table

log = logging.getLogger("resdet")

PROGRESS_S = 30.0
ENSEMBLE = "ensemble"
Numbers = dict[str, Any]


def eval_cls_command(
    *,
    runs: Sequence[str | Path],
    overrides: Sequence[str] = (),
    crops: str = "1",
    scales: Sequence[int] | None = None,
    ensemble: bool = False,
    out: str | Path | None = None,
    device: str | None = None,
    precision: str | None = None,
    strict: bool = False,
) -> Numbers:
    """Evaluate each run folder, checkpoint or published name and print a table.

    `overrides` go on top of each run's own config. `crops` and `scales` are those of
    `resdet.models.views.make_views`; `ensemble` adds the mean of all runs' softmax; `precision` is
    that of `resdet.load`.

    Each run's folder, or `out`, gets eval.json (accuracy in percent), scores.npz (see `Scores`) and
    confusion.png. Of several runs `out` gets a folder each, and itself an eval.json with the
    numbers by run and those of the ensemble; it is runs/eval_<names> by default. Returns what that
    eval.json holds. Raises UserError before anything is computed where a run is not there, and with
    `strict` for any finding in the data; Incomplete, once everything is written, where more images
    are broken than data.max_broken allows, or with `strict` any.
    """
    specs = [str(run) for run in runs]
    _check_runs(specs, ensemble)
    folders, summary_folder = _folders(specs, None if out is None else Path(out))
    numbers: dict[str, Numbers] = {}
    kept: list[Scores] = []
    failures: list[str] = []
    for spec, folder in zip(specs, folders, strict=True):
        scores, views = evaluate_classifier(
            spec,
            overrides,
            crops=crops,
            scales=scales,
            device=device,
            precision=precision,
            folder=folder,
            strict=strict,
        )
        numbers[spec] = write_scores(scores, views, folder, _name(spec), weights=spec)
        if scores.failure is not None:
            failures.append(f"{spec}: {scores.failure}")
        if ensemble:
            kept.append(scores)
    if ensemble:
        make_folder(summary_folder)
        name = f"ensemble of {len(specs)}"
        numbers[ENSEMBLE] = write_scores(mean_of(kept, specs), views, summary_folder, name)
    if len(specs) > 1:
        make_folder(summary_folder)
        write_json(summary_folder / "eval.json", numbers)
    _print_table(numbers)
    print("\nwritten to " + ", ".join(dict.fromkeys(map(str, [*folders, summary_folder]))))
    if failures:
        raise Incomplete("; ".join(failures))
    return numbers if len(specs) > 1 else numbers[specs[0]]


def _check_runs(specs: Sequence[str], ensemble: bool) -> None:
    if not specs:
        raise UserError("give a run folder, a checkpoint, or a name like torchvision:NAME.WEIGHTS")
    if ensemble and len(specs) < 2:
        raise UserError(f"--ensemble needs two runs or more; there is only {specs[0]}")
    twice = [spec for position, spec in enumerate(specs) if spec in specs[:position]]
    if twice:
        raise UserError(f"{twice[0]} is given twice; name each run once")
    for spec in specs:
        if not is_exported(spec):
            check_spec(spec)


@hardware.settings_restored()
def evaluate_classifier(
    spec: str,
    overrides: Sequence[str] = (),
    *,
    crops: str = "1",
    scales: Sequence[int] | None = None,
    device: str | None = None,
    precision: str | None = None,
    folder: Path | None = None,
    strict: bool = False,
) -> tuple[Scores, Views]:
    """A classifier's scores on its data.val, and the views they were made from.

    `folder`, if given, is made before the network runs, so that one which can't be made costs
    nothing. Raises UserError where there are no data, or their classes are not the model's.
    """
    model = _load(spec, overrides, crops)
    config = model.config
    assert config is not None, "a run and a published name have it"
    with naming_imports(config):
        build_evaluator(config.eval.metric, model.class_names)  # an unknown metric fails at once
    views = make_views(
        crops,
        scales,
        test_resize=model.test_resize,
        test_size=model.test_size,
        interpolation=model.interpolation,
    )
    with naming(spec):
        dataset: Images = build_classification_val_data(
            config, classes=model.class_names, strict=strict
        )
    if folder is not None:
        check_folder(make_folder(folder))
    hardware.set_threads(config.train.threads, None)
    model.to(hardware.choose_device(device, 0))
    model.precision = precision
    chosen = precision_of(model)
    model.place(model.device, chosen.parameters)
    log.info(
        f"{spec}: evaluating on {len(dataset)} images, crops {_describe(views)}, precision "
        f"{chosen.name} ({chosen.reason})"
    )
    workers = max(1, hardware.default_workers(config.data.workers, 1))
    broken: dict[int, str] = {}
    scores = score_all(model, dataset, views, config.eval.batch_size, workers, broken)
    scores.broken, scores.metric = dataset.broken + scores.broken, config.eval.metric
    scores.config = config_to_dict(config)
    scores.failure = failure(broken, len(dataset), config.data.max_broken, strict=strict)
    return scores, views


def _load(spec: str, overrides: Sequence[str], crops: str) -> Classifier:
    """The classifier of a run, a published name or an exported model, with its config."""
    if not is_exported(spec):
        return load_classifier(spec, overrides)
    model = load_exported(spec, overrides)
    if not isinstance(model, Classifier):
        raise UserError(
            f"{spec}: is an exported detector, not a classifier; evaluate it with "
            f"{evaluated_by('detector')}"
        )
    if model.config is None:
        raise without_config(spec)
    if crops == "dense":
        raise UserError(
            f"{spec}: --crops dense needs images of other sizes than the exported model takes; "
            "give the run"
        )
    return model


def score_all(
    model: Classifier,
    dataset: Images,
    views: Views,
    batch_size: int,
    workers: int,
    broken: dict[int, str],
) -> Scores:
    """The scores of all images that can be read, in the data set's order; `broken` gets why others
    can't, by position."""
    total = len(dataset)
    logits = np.zeros((total, model.num_classes), np.float32)
    readable = np.zeros(total, bool)
    spoken = time.perf_counter()
    with inference_mode(model):
        for done, (index, outcome) in enumerate(
            score_images(model, dataset, views, batch_size=batch_size, workers=workers), 1
        ):
            if isinstance(outcome, DataError):
                broken[index] = str(outcome)
            else:
                logits[index] = outcome.numpy()
                readable[index] = True
            if time.perf_counter() - spoken > PROGRESS_S:
                spoken = time.perf_counter()
                log.info("%d of %d images", done, total)
    kept = np.flatnonzero(readable)
    return Scores(
        logits if len(kept) == total else logits[kept],
        np.asarray(dataset.labels, np.int64)[kept],
        [dataset.name(index) for index in kept.tolist()],
        list(model.class_names),
        [dataset.name(index) for index in sorted(broken)],
    )


def _describe(views: Views) -> str:
    scales = ", ".join(map(str, views.scales))
    return f"{views.crops} at {scales}" if views.scales else views.crops


def _folders(specs: Sequence[str], out: Path | None) -> tuple[list[Path], Path]:
    """Where each run's files go, and where the summary goes; no two runs share a folder."""
    names = _distinct([_name(spec) for spec in specs])
    if out is not None:
        return ([out] if len(specs) == 1 else [out / name for name in names]), out
    summary = Path("runs") / ("eval_" + "+".join(names))[:100]
    own = [_home(spec) for spec in specs]
    folders = []
    for spec, name, home in zip(specs, names, own, strict=True):
        if home is None:
            folders.append(Path("runs") / f"eval_{name}")
        elif own.count(home) > 1:
            folders.append(home / f"eval_{Path(spec).stem}")
        else:
            folders.append(home)
    return folders, folders[0] if len(specs) == 1 else summary


def _home(spec: str) -> Path | None:
    """The run folder, None for weights that come from none."""
    if is_published(spec) or is_exported(spec):
        return None
    path = own_path(spec)
    return path if path.is_dir() else path.parent


def _name(spec: str) -> str:
    """A short name that can be a file's."""
    if is_published(spec):
        return re.sub(r"[^\w.-]+", "_", spec.partition(":")[2])
    path = own_path(spec).resolve()
    return path.name if path.is_dir() else f"{path.parent.name}_{path.stem}"


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number where one comes again."""
    distinct: list[str] = []
    for name in names:
        number, chosen = 1, name
        while chosen in distinct:
            number += 1
            chosen = f"{name}-{number}"
        distinct.append(chosen)
    return distinct


def write_scores(
    scores: Scores, views: Views, folder: Path, name: str, weights: str | None = None
) -> Numbers:
    """eval.json, scores.npz and confusion.png of one classifier or ensemble, and of one its
    predictions; returns the first."""
    accuracy = scores.feed(ClassificationEvaluator(len(scores.class_names)))
    numbers: Numbers = {**accuracy.compute().summary, "crops": views.crops}
    if scores.metric != "accuracy":
        result = scores.feed(build_evaluator(scores.metric, scores.class_names)).compute()
        log.info(f"{name}: {result.words}")
        numbers |= result.summary
    if views.scales:
        numbers["scales"] = list(views.scales)
    if weights is not None:
        is_file = not (is_published(weights) or is_exported(weights))
        numbers["weights"] = str(checkpoint_path(weights)) if is_file else weights
    note_training(folder)
    title = f"{name}, top-1 {numbers['top1_percent']:.2f} %"
    confusion: NDArray[np.int64] = accuracy.confusion
    try:
        write_json(folder / "eval.json", numbers)
        scores.save(folder / "scores.npz")
        if scores.config is not None:
            store(folder, scores.answers(), scores.config)
        plot_confusion(confusion, scores.class_names, folder / "confusion.png", title=title)
    except WriteError:
        _print_table({name: numbers})  # computed for minutes or hours
        raise
    return numbers


def _print_table(numbers: dict[str, Numbers]) -> None:
    header = ["run", "top-1 %", "top-5 %", "images", "broken"]
    rows = [
        [
            name,
            f"{one['top1_percent']:.2f}",
            f"{one['top5_percent']:.2f}",
            str(one["num_images"]),
            str(one["num_broken"]),
        ]
        for name, one in numbers.items()
    ]
    print_table("", header, rows)
