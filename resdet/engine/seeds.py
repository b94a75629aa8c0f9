"""`--seeds N`: the same run with several seeds, one after another, and what their metrics have in
common."""

from __future__ import annotations

import gc
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from resdet.config.loading import (
    AnyConfig,
    Schema,
    load_any_config,
    override_config,
    train_command,
)
from resdet.engine import distributed
from resdet.engine.distributed import Processes
from resdet.engine.run_folder import check_unused, make_folder
from resdet.engine.signals import Stopped, stop_request
from resdet.engine.train import train_run
from resdet.errors import UserError
from resdet.files import checkpoint
from resdet.files.json import read_json
from resdet.files.run_log import read_log
from resdet.files.writing import write_json
from resdet.viz.tables import plain_table

logger = logging.getLogger("resdet")

SEEDS_FILE = "seeds.json"


def train_seeds(
    config: AnyConfig | None,
    folder: Path,
    processes: Processes,
    *,
    count: int | None,
    resume: bool,
    overrides: Sequence[str] = (),
    strict: bool = False,
    schema: Schema | None = None,
) -> Path:
    """Train `count` runs in seed_K below `folder`, from the config's train.seed on, or resume them;
    other arguments are as in `start.train`. Returns `folder`, with seeds.json in it.

    `count` None resumes as many as there were to be; a larger one adds runs.
    """
    seeds = _seeds(config, folder, count, resume=resume)
    distributed.barrier(processes)
    if processes.is_main:
        make_folder(folder)
        write_results(folder, seeds)
    with stop_request() as stop:
        for seed in seeds:
            run = folder / f"seed_{seed}"
            is_started = resume and any((run / n).is_file() for n in ("config.yaml", "last.pt"))
            own = config
            if config is not None or not is_started:
                own = _config_of(config, folder, seeds[0], seed, overrides)
            logger.info(f"seed {seed} of {seeds[0]} to {seeds[-1]}: {run}")
            try:
                train_run(
                    own,
                    run,
                    processes,
                    resume=is_started,
                    overrides=overrides if own is None else (),
                    strict=strict,
                    schema=schema,
                )
                if processes.is_main:
                    write_results(folder, seeds)
                # asked after the last step, as the report was written
                if seed != seeds[-1] and distributed.any_process(bool(stop), processes):
                    raise Stopped(stop.exit_code)
            except Stopped:
                known = own or load_any_config(run / "config.yaml")
                command = train_command(known.task)
                logger.info(f"resume all seeds with: {command} --resume --run-dir {folder}")
                raise
            gc.collect()
            if processes.device.type == "cuda":
                torch.cuda.empty_cache()
    for line in table_of(folder) if processes.is_main else ():
        logger.info(line)
    return folder


def _seeds(config: AnyConfig | None, folder: Path, count: int | None, *, resume: bool) -> list[int]:
    """The seeds of the runs. UserError where none can be resumed, or something is in the way."""
    if not resume:
        if config is None:
            raise UserError("give a CONFIG to train, or --resume --run-dir DIR to resume its runs")
        check_unused(folder)
        assert count is not None, "resumed only"
        if count < 1:
            raise UserError(f"seeds is {count}; give a number of runs from 1")
        return list(range(config.train.seed, config.train.seed + count))
    file = folder / SEEDS_FILE
    if not file.is_file():
        raise UserError(
            f"{folder}: no runs of several seeds to resume (it has no {SEEDS_FILE}); leave out "
            "--resume to start them, or --seeds to resume a single run"
        )
    stored = read_json(file, "seeds")
    seeds = stored.get("seeds") if isinstance(stored, dict) else None
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise UserError(
            f"{file}: seeds is not a list of whole numbers; give one, such as [0, 1, 2]"
        )
    if count is not None and count < len(seeds):
        raise UserError(
            f"--seeds {count}: {folder} has {len(seeds)} seeds; give at least as many to resume "
            "it, or leave --seeds out"
        )
    return list(range(seeds[0], seeds[0] + max(len(seeds), count or 0)))


def _config_of(
    config: AnyConfig | None, folder: Path, first: int, seed: int, overrides: Sequence[str]
) -> AnyConfig:
    """The config of one seed. What the first run has measured holds for all of them."""
    stored = folder / f"seed_{first}" / "config.yaml"
    own = [*overrides, f"train.seed={seed}"]
    if config is None:
        if not stored.is_file():
            raise UserError(f"{folder}: no run has begun; give the CONFIG again to resume")
        config = load_any_config(stored)
    elif config.train.batch_size == "auto" and seed != first:
        own.append(f"train.batch_size={load_any_config(stored).train.batch_size}")
    return override_config(config, own, str(stored))


def write_results(folder: Path, seeds: Sequence[int]) -> None:
    """seeds.json: the seeds, the metrics of each run that has any, and their mean and deviation."""
    runs = {f"seed_{seed}": metrics_of(folder / f"seed_{seed}") for seed in seeds}
    done = {name: found for name, found in runs.items() if found}
    write_json(
        folder / SEEDS_FILE, {"seeds": list(seeds), "runs": done, "metrics": summary_of(done)}
    )


def metrics_of(run: Path) -> dict[str, Any]:
    """Step and metrics of a run's best validation, without a best one of its last; empty without
    any."""
    last, log = run / "last.pt", run / "log.jsonl"
    if not last.is_file() or not log.is_file():
        return {}
    validations = [record for record in read_log(log) if record.get("eval")]
    best = checkpoint.load(last)["best"]
    if best is not None:
        validations = [record for record in validations if record["step"] == best["step"]]
    if not validations:
        return {}
    record = validations[-1]
    metrics = dict(_flat(record["eval"]))
    if record.get("val_loss") is not None:
        metrics["val_loss"] = record["val_loss"]
    return {"step": record["step"], "metrics": metrics}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers by name, with that of their kind in front: bbox/AP. COCO's -1, which stands for no
    object to measure, is left out."""
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}/")
        elif value is not None and math.isfinite(value) and value != -1:
            found.append((f"{prefix}{name}", value))
    return found


def summary_of(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and sample deviation (n - 1) of each metric over the runs that have it; the deviation of
    one run is None."""
    names = dict.fromkeys(name for run in runs.values() for name in run["metrics"])
    summary = {}
    for name in names:
        values = [run["metrics"][name] for run in runs.values() if name in run["metrics"]]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        summary[name] = {"mean": statistics.fmean(values), "std": deviation, "values": values}
    return summary


def table_of(folder: Path) -> list[str]:
    """The lines of seeds.json as a table."""
    stored = read_json(folder / SEEDS_FILE, "metrics")
    runs = stored["runs"]
    if not stored["metrics"]:
        return [f"{folder / SEEDS_FILE}: no run was validated, so that there is nothing to compare"]
    rows = []
    for name, found in stored["metrics"].items():
        numbers = [found["mean"], found["std"]]
        numbers += [run["metrics"].get(name) for run in runs.values()]
        rows.append([name, *("–" if number is None else f"{number:.4f}" for number in numbers)])
    title = f"best validation of {len(runs)} seed(s), mean and deviation (n - 1):"
    return [title, *plain_table(["metric", "mean", "std", *runs], rows), str(folder / SEEDS_FILE)]
