"""`--lr-find`: which learning rate a run should start from, by a range test.

The rate grows exponentially from step to step, on the run's own batches: the loss first stays, then
falls, and rises once the rate is too large (Smith 2017, 3.3; in this form by Gugger 2018 and in
fastai). What is trained is thrown away.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resdet.config.loading import AnyConfig
from resdet.engine import distributed, optim
from resdet.engine.distributed import Processes
from resdet.engine.explained import explained
from resdet.engine.run_folder import Run, make_folder
from resdet.engine.setup import Training, prepare
from resdet.engine.step import update
from resdet.errors import UserError
from resdet.files.writing import write_json
from resdet.viz.lr_find import plot_lr_find

logger = logging.getLogger("resdet")

STEPS = 100
FIRST, LAST = 1e-6, 10.0
"""Rates of the first and the last step, as values of optim.lr."""
DECAY = 0.9
"""Of the running mean that tells whether the loss diverges."""
DIVERGED = 4.0
"""Times the lowest running mean, at which the test ends."""
WIDTH = 3.0
"""Standard deviation in steps of the window that smooths the curve."""
CLIPPED = 1.25
"""Times the first losses, at which higher ones are clipped before they are smoothed."""
LEAST_FALL = 0.02
"""Share of the loss by which it has to fall, so that a rate can be suggested."""
LEAST_STEPS = 10


@dataclass(frozen=True)
class Suggestion:
    """Rates as values of optim.lr."""

    smoothed: list[float]
    """The loss around each step."""
    lowest: float
    """Where it is lowest."""
    steepest: float | None
    """Where it falls most per decade; None where it does not fall."""

    @property
    def lr(self) -> float | None:
        """A tenth of the rate with the lowest loss; None where the loss does not fall."""
        return None if self.steepest is None else float(f"{self.lowest / 10:.2g}")


def find_lr(config: AnyConfig | None, folder: Path, *, processes: Processes, strict: bool) -> Path:
    """Test the rates and suggest one; lr_find.png and lr_find.json go to the run folder's name with
    `_lr_find`, which is returned.

    UserError where the loss is not finite from the first steps on.
    """
    if config is None:
        raise UserError("--lr-find needs a CONFIG")
    out = folder.with_name(f"{folder.name}_lr_find")
    training = prepare(Run(out, config, None), processes, strict=strict)
    rates, losses, end = sweep(training)
    if len(losses) < LEAST_STEPS:
        raise UserError(
            f"--lr-find: {end}, after {len(losses)} steps; look at the data with --check, or set "
            "optim.clip_norm"
        )
    suggestion = suggest(rates, losses)
    if processes.is_main:
        write_results(training, out, rates, losses, suggestion, end)
    log_suggestion(training, suggestion, end)
    logger.info(f"nothing of it was kept but {out / 'lr_find.png'} and lr_find.json")
    return out


def sweep(training: Training) -> tuple[list[float], list[float], str]:
    """Updates at growing rates: the rates, as optim.lr, with the loss before each; and what ended
    the test."""
    t, section = training, training.config.optim
    batch_size, reference = t.config.train.images_per_step, section.reference_batch
    rates: list[float] = []
    losses: list[float] = []
    mean, lowest = 0.0, math.inf
    t.model.train()
    with closing(t.task.load_steps(0, STEPS, t.workers)) as steps:
        for step, micro_batches in enumerate(distributed.in_step(steps, t.processes)):
            rate = FIRST * (LAST / FIRST) ** (step / (STEPS - 1))
            optim.set_lr(t.optimizer, optim.scale_lr(rate, batch_size, reference))
            with explained(f"step {step + 1}", t.processes.device):
                found = update(t, micro_batches, step)["loss"].double().cpu()
            loss = float(distributed.mean(found, t.processes))
            if not math.isfinite(loss):
                return rates, losses, f"the loss is not finite at optim.lr={rate:.2g}"
            rates.append(rate)
            losses.append(loss)
            mean = DECAY * mean + (1 - DECAY) * loss
            current = mean / (1 - DECAY ** (step + 1))
            lowest = min(lowest, current)
            if current > DIVERGED * lowest:
                return rates, losses, f"the loss diverges at optim.lr={rate:.2g}"
            if (step + 1) % 10 == 0:
                logger.info(f"step {step + 1}/{STEPS}  optim.lr {rate:.2g}  loss {current:.4f}")
    return rates, losses, f"the test ended at optim.lr={LAST:g}"


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """What the losses at ascending rates say."""
    raw = np.asarray(losses, np.float64)
    # what explodes at the end must not raise the steps before it
    raw = np.minimum(raw, CLIPPED * np.median(raw[:LEAST_STEPS]))
    places = np.arange(len(raw))
    window = np.exp(-0.5 * ((places[:, None] - places) / WIDTH) ** 2)
    smoothed = (window @ raw) / window.sum(axis=1)
    lowest = int(smoothed.argmin())
    steepest = None
    if smoothed[: lowest + 1].max() - smoothed[lowest] > LEAST_FALL * abs(smoothed[lowest]):
        slope = np.gradient(smoothed, np.log10(rates))
        steepest = float(f"{rates[int(slope[: lowest + 1].argmin())]:.2g}")
    return Suggestion(smoothed.tolist(), float(f"{rates[lowest]:.2g}"), steepest)


def write_results(
    training: Training,
    out: Path,
    rates: list[float],
    losses: list[float],
    suggestion: Suggestion,
    end: str,
) -> None:
    """lr_find.json and lr_find.png."""
    reference = training.config.optim.reference_batch
    make_folder(out)
    values = {
        "suggested_lr": suggestion.lr,
        "lowest_loss_lr": suggestion.lowest,
        "steepest_lr": suggestion.steepest,
        "reference_batch": reference,
        "batch_size": training.config.train.images_per_step,
        "end": end,
        "lr": rates,
        "loss": losses,
        "smoothed_loss": suggestion.smoothed,
    }
    write_json(out / "lr_find.json", values)
    marks = {
        "suggested, a tenth of the lowest": suggestion.lr,
        "steepest descent": suggestion.steepest,
        "lowest loss": suggestion.lowest,
    }
    label = f"optim.lr, for optim.reference_batch {reference}"
    plot_lr_find(rates, losses, suggestion.smoothed, marks, out / "lr_find.png", xlabel=label)


def log_suggestion(training: Training, suggestion: Suggestion, end: str) -> None:
    """The suggestion in words."""
    if suggestion.lr is None:
        logger.info(
            f"no rate can be suggested: the loss falls by less than {LEAST_FALL:.0%} at any of "
            f"them; {end}"
        )
        return
    config = training.config
    batch_size, reference = config.train.images_per_step, config.optim.reference_batch
    scaled = optim.scale_lr(suggestion.lr, batch_size, reference)
    logger.info(
        f"suggested: optim.lr={suggestion.lr:g}, for optim.reference_batch {reference} "
        f"({scaled:.2g} for {batch_size} images): a tenth of {suggestion.lowest:g}, where the loss "
        f"is lowest. It falls most steeply at {suggestion.steepest:g}; {end}"
    )
