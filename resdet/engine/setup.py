"""Everything a training run needs, made from its config and, on --resume, its checkpoint."""

import copy
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resdet import hardware
from resdet.config.classification import ClassificationConfig, ClassificationOptimConfig
from resdet.config.detection import DetectionConfig
from resdet.config.loading import (
    AnyConfig,
    config_from_dict,
    config_to_dict,
    dump_yaml,
    with_batch_size,
)
from resdet.data.loader import TrainPlan
from resdet.data.resumed import Resumed
from resdet.data.workers import check_shared_memory
from resdet.engine import distributed, optim
from resdet.engine.batch_size import choose_batch_size, smallest_batch
from resdet.engine.broken import BrokenImages
from resdet.engine.classification import ClassificationTask
from resdet.engine.data_record import check_data, compare_processes, left_out_of
from resdet.engine.detection import DetectionTask, epochs_with_mosaics
from resdet.engine.distributed import Processes
from resdet.engine.ema import EMA
from resdet.engine.ending import Ending
from resdet.engine.localization import make_localization_task
from resdet.engine.resume import check_state, load_optimizer
from resdet.engine.run_folder import Run
from resdet.engine.task import Task
from resdet.engine.trackers import check_trackers
from resdet.engine.watch import LossWatch
from resdet.factory.imports import naming_imports
from resdet.files import checkpoint
from resdet.files.lock import FolderLock
from resdet.hardware import Precision
from resdet.inference.flips import warn_of_flips
from resdet.ops import kernels

logger = logging.getLogger("resdet")

TASKS: dict[str, Callable[..., Task]] = {
    "detection": DetectionTask,
    "classification": ClassificationTask,
    "localization": make_localization_task,
}


@dataclass
class Training:
    """The parts of a run that the loop works with."""

    folder: Path
    config: AnyConfig
    processes: Processes
    task: Task
    precision: Precision
    threads: int
    workers: int
    plan: TrainPlan
    schedule: optim.Schedule
    adapted: optim.Adaptation
    """What the schedule has learned from the run."""
    model: nn.Module
    wrapped: nn.Module
    """`model`, averaging gradients where there are several processes."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: EMA | None
    start_step: int = 0
    """Updates done when this process started."""
    step: int = 0
    """Updates done so far."""
    best: dict[str, Any] | None = None
    """{"step", "metric", "value"} of the best validation."""
    validation_is_due: bool = False
    """The validation of the last step has not been made, or not to its end."""
    finalized: bool = False
    """Whether the model is as `Task.finalize` leaves it after the last step."""
    lock: FolderLock | None = None
    """On the folder, in the main process."""
    is_unsaved: bool = False
    """The disk refused the last checkpoint."""
    recent: list[float] = field(default_factory=list)
    """Training errors in percent of the last steps, where the task has them."""

    def __post_init__(self) -> None:
        self.watch = LossWatch(self.processes, self.recent)
        self.ending = Ending.of(self.config)
        share, val_data = self.config.data.max_broken, self.task.val_data
        self.broken = BrokenImages("data.train", len(self.task.train_data), share)
        self.broken_val = None
        if val_data is not None:
            images = getattr(val_data, "untiled", val_data)
            self.broken_val = BrokenImages("data.val", len(images), share)

    @property
    def total_steps(self) -> int:
        return self.schedule.total_steps

    def is_due(self, step: int, every: int | None) -> bool:
        """Whether what comes every so many steps (null: once per epoch, 0: at the end) is now."""
        interval = self.plan.steps_per_epoch if every is None else every
        return step == self.total_steps or (interval > 0 and step % interval == 0)

    def state(self) -> dict[str, Any]:
        """The checkpoint after the updates so far: plain values and tensors only."""
        values = checkpoint.contents(
            self.task.kind,
            config_to_dict(self.config),
            self.task.class_names,
            self.task.category_ids,
            self.step,
            self.model.state_dict(),
            self.ema.averages if self.ema else None,
        )
        return values | {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "validation_is_due": self.validation_is_due,
            "finalized": self.finalized,
            "threads": self.threads,
            "data": self.task.record.state(),
            "seen": None if self.task.seen is None else list(self.task.seen),
            "adapted": asdict(self.adapted),
            "recent": list(self.recent),
            "ending": self.ending.state(),
            "broken": {
                "train": dict(self.broken.known),
                "val": dict(self.broken_val.known) if self.broken_val else {},
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint; UserError for that of another run and a damaged one."""
        check_state(
            state,
            self.folder / "last.pt",
            model=self.model,
            averages=self.ema.averages if self.ema else None,
            optimizer=self.optimizer,
            optimizer_name=self.config.optim.name,
            scaler=self.scaler.state_dict(),
            classes=(self.task.class_names, self.task.category_ids),
            total_steps=self.total_steps,
        )
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.load(state["ema"])
        self.start_step = self.step = state["step"]
        self.best = state["best"]
        self.validation_is_due = state["validation_is_due"]
        # absent in checkpoints of 0.1.0's first weeks
        self.finalized = state.get("finalized", True) and self.step == self.total_steps
        broken = state.get("broken", {"train": {}, "val": {}})
        self.broken.restore(broken["train"])
        if self.broken_val:
            self.broken_val.restore(broken["val"])
        self.adapted = optim.Adaptation(**state.get("adapted", {}))
        self.recent[:] = state.get("recent", [])
        if "ending" in state:
            self.ending.restore(state["ending"])


def prepare(run: Run, processes: Processes, *, strict: bool, decode_all: bool = False) -> Training:
    """Build the parts in order: machine, data, model, weights, batch size, optimizer, checkpoint.

    UserError for whatever would make the run fail later.
    """
    config, state = run.config, run.checkpoint
    check_trackers(config.log.trackers)
    threads = hardware.set_threads(config.train.threads, state["threads"] if state else None)
    hardware.set_determinism(config.train.deterministic, processes.device)
    hardware.seed_all(config.train.seed)
    precision = hardware.choose_precision(config.train.precision, processes.device)
    is_auto = config.train.batch_size == "auto"
    if is_auto:
        size = smallest_batch(processes, config.train.accumulate)
        run.config = config = with_batch_size(config, size)
    batch_size, accumulate = config.train.images_per_step, config.train.accumulate
    distributed.images_per_part(batch_size, processes.world_size, accumulate)
    task = make_task(run, processes, strict=strict, decode_all=decode_all)
    task.model.place(processes.device, precision.parameters)
    if is_auto:
        settle_batch_size(task, precision, threads)
    task.follow_plan()
    # what the task has filled in, such as the network that model.weights names
    run.config = config = task.config
    if processes.is_main:
        for line in dump_yaml(config).rstrip().splitlines():
            logger.info(line)
    compiled, why = hardware.choose_compile(
        config.train.compile,
        processes.device,
        recomputes=bool(config.model.backbone.activation_checkpointing),
    )
    task.model.set_compiled(compiled)
    training = assemble(run.folder, task, task.model, processes, precision, threads)
    log_schedule(training.schedule, config, task.plan)
    images = distributed.images_per_part(
        config.train.images_per_step, processes.world_size, accumulate
    )
    check_shared_memory(
        3 * images * task.largest_area(), training.workers * processes.local_world_size
    )
    if state:
        training.restore(state)
        log_longer(training, state)
    log_machine(training, why)
    return training


def assemble(
    folder: Path,
    task: Task,
    model: nn.Module,
    processes: Processes,
    precision: Precision,
    threads: int,
) -> Training:
    """The parts that follow from a task, at step 0. `model` is the task's, or a copy of it."""
    config = task.config
    workers = hardware.default_workers(config.data.workers, processes.local_world_size)
    schedule = make_schedule(config, task.plan)
    return Training(
        folder=folder,
        config=config,
        processes=processes,
        task=task,
        precision=precision,
        threads=threads,
        workers=workers if task.uses_workers else 0,
        plan=task.plan,
        schedule=schedule,
        adapted=schedule.begin(),
        model=model,
        wrapped=distributed.wrap(model, processes),
        optimizer=optim.make_optimizer(config.optim, model),
        scaler=torch.amp.GradScaler(processes.device.type, enabled=precision.name == "fp16"),
        ema=EMA(model, config.train.ema_decay) if config.train.ema_decay else None,
    )


def settle_batch_size(task: Task, precision: Precision, threads: int) -> None:
    """train.batch_size auto as a number, in every process the same; the model stays as it is."""
    model = copy.deepcopy(task.model)
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):  # waits for other processes
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
    alone = replace(task.processes, world_size=1)
    trial = assemble(Path(), task, model, alone, precision, threads)
    task.take_batches_of(choose_batch_size(trial, task.processes))


def log_machine(training: Training, compiled: str) -> None:
    """What the run computes with and how; `compiled` is the reason for torch.compile or against."""
    processes, precision = training.processes, training.precision
    uses_kernels = not isinstance(training.config, ClassificationConfig)
    has_kernels = processes.device.type == "cuda" and uses_kernels
    logger.info(
        f"device: {processes.device} × {processes.world_size} process(es), "
        f"{training.threads} thread(s), {training.workers} loader worker(s); "
        f"precision: {precision.name} ({precision.reason}); compile: {compiled}"
        + (f"; kernels: {kernels.choose(processes.device)[1]}" if has_kernels else "")
    )


def make_task(run: Run, processes: Processes, *, strict: bool, decode_all: bool) -> Task:
    """The run's task, whose data are the same in all processes and those it started with."""
    config, state = run.config, run.checkpoint
    resumed = Resumed(run.split, left_out_of(state)) if state else None
    with naming_imports(config):
        task = TASKS[config.task](
            config,
            processes,
            is_new=state is None,
            strict=strict,
            decode_all=decode_all,
            resumed=resumed,
        )
    warn_of_flips(task.config, task.class_names)
    compare_processes(task.record, task.findings, processes)
    if state:
        check_data(state, task.record)
    return task


def make_schedule(config: AnyConfig, plan: TrainPlan) -> optim.Schedule:
    """The learning rate over the run, scaled to the batch."""
    section, batch_size = config.optim, config.train.images_per_step
    reference = section.reference_batch
    total = plan.total_steps(config.train.epochs, config.train.max_steps)
    milestones = tuple(section.milestones)
    if config.train.epochs is not None:
        milestones = optim.scale_milestones(section.milestones, batch_size, reference)
    if section.milestone_epochs:
        ends = [round(epoch * plan.steps_per_epoch) for epoch in section.milestone_epochs]
        milestones = tuple(max(1, end) for end in ends)
    warmup_steps = section.warmup_steps
    if section.warmup_epochs is not None:
        warmup_steps = round(section.warmup_epochs * plan.steps_per_epoch)
    held = (
        section.warmup_until_error_percent
        if isinstance(section, ClassificationOptimConfig)
        else None
    )
    return optim.Schedule(
        lr=optim.scale_lr(section.lr, batch_size, reference),
        kind=section.schedule,
        total_steps=total,
        milestones=milestones,
        gamma=section.gamma,
        warmup_steps=warmup_steps,
        warmup_factor=section.warmup_factor,
        min_lr=optim.scale_lr(section.min_lr, batch_size, reference),
        patience=section.patience,
        hold_until_error=held,
    )


def log_schedule(schedule: optim.Schedule, config: AnyConfig, plan: TrainPlan) -> None:
    """The length of the run, what was scaled to its batch, and what in it comes too late."""
    section, batch_size = config.optim, config.train.images_per_step
    total = schedule.total_steps
    reference = section.reference_batch
    if batch_size != reference:
        logger.info(
            f"scaled: optim.lr {section.lr:g} for {reference} images → {schedule.lr:g} for "
            f"{batch_size}"
        )
    if section.schedule == "multistep":
        if not section.milestone_epochs and schedule.milestones != tuple(section.milestones):
            logger.info(
                f"scaled: optim.milestones {section.milestones} of {reference} images → "
                f"{list(schedule.milestones)} of {batch_size}"
            )
        beyond = [step for step in schedule.milestones if step >= total]
        if beyond:
            logger.info(f"note: the run ends at step {total}, before milestone(s) {beyond}")
    if schedule.warmup_steps >= total:
        warmup = schedule.warmup_steps
        logger.info(f"note: the run of {total} steps ends within its warm-up of {warmup}")
    if schedule.hold_until_error is not None:
        low, held = schedule.lr * schedule.warmup_factor, schedule.hold_until_error
        logger.info(f"rate held at {low:g} until the training error is below {held:g} %")
    logger.info(f"steps: {total} of {batch_size} images; {plan.steps_per_epoch} per epoch")


def log_longer(training: Training, state: dict[str, Any]) -> None:
    """What it does to the schedule that a run resumed from `state` has become longer."""
    old = config_from_dict(state["config"], str(training.folder / "last.pt"))
    before, now = make_schedule(old, training.plan), training.schedule
    if before.total_steps == now.total_steps:
        return
    step = training.step
    lr, next_lr = (s.lr_at(step, training.adapted) for s in (before, now))
    words = f"longer: {before.total_steps} → {now.total_steps} steps"
    if now.kind == "cosine":
        words += (
            f"; the cosine now ends there, so that the rate continues at {next_lr:.3g} in place of "
            f"{lr:.3g}. The first {step} steps had the rates of the shorter run"
        )
    else:
        words += f"; the rate continues at {next_lr:.3g}, as in a run of that length"
        words += ", and drops at no further milestone" * (
            now.kind == "multistep" and not any(each > step for each in now.milestones)
        )
    is_replaced = isinstance(old, ClassificationConfig) and old.train.precise_bn_images
    if is_replaced and state.get("finalized"):
        words += (
            "; the statistics of batch norm that train.precise_bn_images gave the shorter run "
            "average with the new steps, and are computed again at the end"
        )
    last = epochs_with_mosaics(old, training.plan) if isinstance(old, DetectionConfig) else None
    if last is not None and step > last * training.plan.steps_per_epoch:
        words += f"; the shorter run made no mosaics after epoch {last}, and the longer part does"
    logger.info(words)
