"""Everything a training run needs, made from its config and, on --resume, its checkpoint."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import resdet
from resdet.backbones.norm import FrozenBatchNorm2d
from resdet.config.loading import config_to_dict, dump_yaml
from resdet.config.schema import Config
from resdet.data.coco import CocoDetection
from resdet.data.loader import TrainPlan
from resdet.engine import checkpoint, distributed, hardware, optim
from resdet.engine.distributed import Processes
from resdet.engine.ema import EMA
from resdet.engine.evaluate import check_classes, prepare_truth
from resdet.engine.hardware import Precision
from resdet.engine.run_folder import Run
from resdet.errors import UserError
from resdet.evaluation.coco_input import GroundTruth
from resdet.factory import build_model, build_train_data, build_val_data, load_start_weights
from resdet.models.rcnn import RCNN

logger = logging.getLogger("resdet")

MAX_CLASSES = 20
"""Classes counted by name in the log, the commonest first."""


@dataclass
class Training:
    """The parts of a run that the loop works with."""

    config: Config
    precision: Precision
    threads: int
    workers: int
    train_data: CocoDetection
    val_data: CocoDetection | None
    truth: GroundTruth | None
    plan: TrainPlan
    schedule: optim.Schedule
    model: RCNN
    wrapped: nn.Module
    """`model`, averaging gradients where there are several processes."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: EMA | None
    start_step: int = 0
    """Updates done so far."""
    best: dict[str, Any] | None = None
    """{"step", "metric", "value"} of the best validation."""
    validation_is_due: bool = False
    """The run was stopped at a step whose validation has not been made."""

    @property
    def total_steps(self) -> int:
        return self.schedule.total_steps

    def is_due(self, step: int, every: int | None) -> bool:
        """Whether what comes every so many steps (null: once an epoch, 0: at the end) is now."""
        interval = self.plan.steps_per_epoch if every is None else every
        return step == self.total_steps or (interval > 0 and step % interval == 0)

    def state(self, step: int, *, validation_is_due: bool = False) -> dict[str, Any]:
        """The checkpoint after `step` updates: plain values and tensors only."""
        return {
            "format": checkpoint.FORMAT,
            "kind": "detector",
            "resdet_version": resdet.__version__,
            "torch_version": str(torch.__version__),
            "config": config_to_dict(self.config),
            "class_names": list(self.model.class_names),
            "category_ids": list(self.model.category_ids),
            "step": step,
            "model": self.model.state_dict(),
            "ema": self.ema.averages if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "validation_is_due": validation_is_due,
            "threads": self.threads,
            "data": data_digest(self.train_data),
        }

    def restore(self, found: dict[str, Any]) -> None:
        """Go on from a checkpoint of this run."""
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.scaler.load_state_dict(found["scaler"])
        if self.ema:
            self.ema.load(found["ema"])
        self.start_step = found["step"]
        self.best = found["best"]
        self.validation_is_due = found["validation_is_due"]


def prepare(run: Run, processes: Processes, *, strict: bool, decode_all: bool = False) -> Training:
    """Build the parts in order: machine, data, model, weights, optimizer, checkpoint.

    UserError for whatever would make the run fail later.
    """
    config, found = run.config, run.checkpoint
    if processes.is_main:
        logger.info(dump_yaml(config).rstrip())
    threads = hardware.set_threads(config.train.threads, found["threads"] if found else None)
    hardware.set_determinism(config.train.deterministic, processes.device)
    hardware.seed_all(config.train.seed)
    precision = hardware.choose_precision(config.train.precision, processes.device)
    batch_size, accumulate = config.train.batch_size, config.train.accumulate
    distributed.images_per_part(batch_size, processes.world_size, accumulate)
    train_data, val_data, truth = load_data(config, strict=strict, decode_all=decode_all)
    model = make_model(config, train_data, processes, is_new=found is None)
    model.place(processes.device, precision.parameters)
    compiled, why = hardware.choose_compile(config.train.compile, processes.device)
    model.set_compiled(compiled)
    plan = make_plan(config, train_data)
    training = Training(
        config=config,
        precision=precision,
        threads=threads,
        workers=hardware.default_workers(config.data.workers, processes.local_world_size),
        train_data=train_data,
        val_data=val_data,
        truth=truth,
        plan=plan,
        schedule=make_schedule(config, plan),
        model=model,
        wrapped=distributed.wrap(model, processes),
        optimizer=make_optimizer(config, model),
        scaler=torch.amp.GradScaler(processes.device.type, enabled=precision.name == "fp16"),
        ema=EMA(model, config.train.ema_decay) if config.train.ema_decay else None,
    )
    if found:
        check_data(found, train_data)
        training.restore(found)
    logger.info(
        f"device: {processes.device} × {processes.world_size} process(es), {threads} thread(s), "
        f"{training.workers} loader worker(s); precision: {precision.name} ({precision.reason}); "
        f"compile: {why}"
    )
    return training


def load_data(
    config: Config, *, strict: bool, decode_all: bool
) -> tuple[CocoDetection, CocoDetection | None, GroundTruth | None]:
    """Training and validation data, counted in the log; the ground truth to validate against."""
    train_data = build_train_data(config, strict=strict, decode_all=decode_all)
    describe_data("data.train", train_data)
    if not len(train_data):
        raise UserError(
            f"{config.data.train.annotations}: no image to train on; "
            "see the findings above, or set data.keep_empty=true"
        )
    val_data = build_val_data(config, strict=strict, decode_all=decode_all)
    if val_data is None or config.data.val is None:
        return train_data, None, None
    describe_data("data.val", val_data)
    source = str(config.data.val.annotations)
    check_classes(val_data, train_data.class_names, source)
    return (
        train_data,
        val_data,
        prepare_truth(val_data, masks=config.model.roi.mask_head is not None, source=source),
    )


def describe_data(name: str, data: CocoDetection) -> None:
    """Objects by class and the number of findings in the log; reading named these one by one."""
    objects = Counter(dict(zip(data.class_names, data.objects_per_class.tolist(), strict=True)))
    absent = [name for name, count in objects.items() if not count]
    present = len(objects) - len(absent)
    common = [f"{name} {count}" for name, count in objects.most_common(min(present, MAX_CLASSES))]
    more = f" and {present - MAX_CLASSES} more" if present > MAX_CLASSES else ""
    logger.info(
        f"{name}: {len(data)} images; objects by class: {', '.join(common)}{more}; "
        f"{len(data.findings)} finding(s)"
    )
    if absent:
        logger.info(f"{name}: no object of {len(absent)} class(es): {', '.join(absent)}")


def make_model(config: Config, data: CocoDetection, processes: Processes, *, is_new: bool) -> RCNN:
    """The detector for this data; with its start weights where the run is new."""
    model = build_model(config, class_names=data.class_names, category_ids=data.category_ids)
    distributed.check_norms(model, processes)
    if is_new:
        check_frozen(config, model)
        for line in load_start_weights(model, config):
            logger.info(line)
    return model


def check_frozen(config: Config, model: RCNN) -> None:
    """UserError for frozen batch norm on random weights, which diverges within two steps."""
    if config.model.weights is not None or config.model.backbone.weights is not None:
        return
    if any(isinstance(module, FrozenBatchNorm2d) for module in model.backbone.modules()):
        raise UserError(
            "model.backbone: frozen batch norm (norm frozen_bn, or freeze_at) with random weights "
            "diverges at once; set model.backbone.weights or model.weights, or use norm bn or gn "
            "and freeze_at 0"
        )


def make_plan(config: Config, data: CocoDetection) -> TrainPlan:
    """Which images each step takes."""
    ratios = data.sizes[:, 1] / data.sizes[:, 0] if config.data.aspect_grouping else None
    return TrainPlan(
        num_images=len(data),
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        aspect_ratios=ratios,
    )


def make_schedule(config: Config, plan: TrainPlan) -> optim.Schedule:
    """The learning rate over the run; what was scaled to the batch is said in the log."""
    section, batch_size = config.optim, config.train.batch_size
    reference = section.reference_batch
    if config.train.epochs is not None:
        total = max(1, math.ceil(config.train.epochs * plan.steps_per_epoch - 1e-6))
        milestones = optim.scale_milestones(section.milestones, batch_size, reference)
    else:
        assert config.train.max_steps is not None, "the schema lets one of the two through"
        total, milestones = config.train.max_steps, tuple(section.milestones)
    lr = optim.scale_lr(section.lr, batch_size, reference)
    if batch_size != reference:
        logger.info(
            f"scaled: optim.lr {section.lr:g} for {reference} images → {lr:g} for {batch_size}"
        )
    if section.schedule == "multistep":
        if milestones != tuple(section.milestones):
            logger.info(
                f"scaled: optim.milestones {section.milestones} of {reference} images → "
                f"{list(milestones)} of {batch_size}"
            )
        beyond = [step for step in milestones if step >= total]
        if beyond:
            logger.info(f"note: the run ends at step {total}, before milestone(s) {beyond}")
    if section.warmup_steps >= total:
        logger.info(f"note: the run of {total} steps ends within optim.warmup_steps")
    logger.info(f"steps: {total} of {batch_size} images; {plan.steps_per_epoch} an epoch")
    return optim.Schedule(
        lr=lr,
        kind=section.schedule,
        total_steps=total,
        milestones=milestones,
        gamma=section.gamma,
        warmup_steps=section.warmup_steps,
        warmup_factor=section.warmup_factor,
    )


def make_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    section = config.optim
    groups = optim.parameter_groups(
        model, weight_decay=section.weight_decay, norm_weight_decay=section.norm_weight_decay
    )
    return optim.make_optimizer(
        section.name, groups, lr=section.lr, momentum=section.momentum, betas=section.betas
    )


def data_digest(data: CocoDetection) -> str:
    """A fingerprint of images, sizes and classes, so that a resumed run meets the same data."""
    digest = hashlib.sha256(np.ascontiguousarray(data.sizes).tobytes())
    digest.update(repr((list(data.image_ids), list(data.class_names))).encode())
    return f"{len(data)} images, {digest.hexdigest()[:16]}"


def check_data(found: dict[str, Any], data: CocoDetection) -> None:
    """UserError where the training data is not what the run began with."""
    if found["data"] != data_digest(data):
        raise UserError(
            f"data.train changed since this run began: {found['data']} then, {data_digest(data)} "
            "now; put the old files back, or start a new run by --run-dir with "
            "model.weights set to this one"
        )
