"""One run: the loop, to be read from top to bottom, and what it writes."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from resdet import hardware
from resdet.config.loading import AnyConfig, Schema, config_to_dict, train_command
from resdet.engine import distributed, optim, pictures
from resdet.engine.distributed import Processes
from resdet.engine.explained import explained
from resdet.engine.log import Pace, RunLog, cut_log, optional
from resdet.engine.profile import StepProfile, data_waits_profiled
from resdet.engine.report import report_run
from resdet.engine.run_folder import Claim, Run, open_run, prepare_folder
from resdet.engine.setup import Training, prepare
from resdet.engine.signals import Stopped, StopRequest, stop_request
from resdet.engine.step import num_readable, update
from resdet.engine.trackers import Trackers
from resdet.engine.watch import ERROR_STEPS, NonFiniteError, check_weights
from resdet.files import checkpoint
from resdet.files.writing import WriteError

logger = logging.getLogger("resdet")


def train_run(
    config: AnyConfig | None,
    folder: Path,
    processes: Processes,
    *,
    resume: bool,
    overrides: Sequence[str] = (),
    strict: bool = False,
    schema: Schema | None = None,
) -> Path:
    """Make or resume one run and train it to its end; arguments are as in `start.train`."""
    with closing(Claim(folder, processes)) as claim, stop_request() as stop:
        is_new = not resume or not folder.is_dir()
        if not is_new:  # before it is read: another run may be writing it
            claim.take(is_new=False)
        run = open_run(config, folder, resume=resume, overrides=overrides, schema=schema)
        # Every process has looked at the folder before the main one makes it.
        distributed.barrier(processes)
        if is_new:
            claim.take(is_new=True)
        training = prepare(run, processes, strict=strict)
        training.lock = claim.lock
        run_training(run, training, stop)
    return run.folder


def run_training(run: Run, training: Training, stop: StopRequest) -> None:
    """Open the log, run the steps, close the log."""
    start, is_main = training.start_step, training.processes.is_main
    if is_main:
        prepare_folder(run, training.task.split)
        log_file = run.folder / "log.jsonl"
        gone = cut_log(log_file, start, validation_is_due=training.validation_is_due)
        if run.checkpoint is not None:
            logger.info(f"resuming {run.folder} after step {start}; {gone} later log lines removed")
    names = training.config.log.trackers if is_main else []
    log = RunLog(
        run.folder,
        is_main=is_main,
        tensorboard=training.config.log.tensorboard,
        start_step=start,
        total_steps=training.total_steps,
        trackers=Trackers(names, run.folder, config_to_dict(training.config)) if names else None,
    )
    try:
        with saved_on_error(training):
            run_steps(training, log, stop)
    finally:
        log.close()
    report_run(training, stop)
    best = ""
    if training.best:
        best = "; best {metric} {value:.4f} at step {step}".format_map(training.best)
    logger.info(f"done: {done_steps(training)}{best}; everything is in {run.folder}")


def done_steps(training: Training) -> str:
    """How many steps a run has made, and if there were to be more, what ended it."""
    t = training
    if t.step == t.total_steps:
        return f"{t.total_steps} steps"
    if t.ending.is_stalled:
        why = (
            f"no better validation in {t.ending.waited}, and train.early_stop.patience is "
            f"{t.ending.patience}; to continue: {resume_command(t)} train.early_stop=null"
        )
    else:
        why = (
            f"train.max_hours {t.ending.max_hours:g} are over; to continue: {resume_command(t)} "
            f"train.max_hours={2 * (t.ending.max_hours or 1):g}"
        )
    return f"{t.step} of {t.total_steps} steps ({why})"


def run_steps(training: Training, log: RunLog, stop: StopRequest) -> None:
    """The loop: an update sums the gradients of a step's micro-batches; steps count from 1."""
    t, config, processes = training, training.config, training.processes
    watch, pace = t.watch, Pace()
    t.ending.start()
    make_up(t, log, stop)
    if t.ending.is_stalled:
        return
    t.model.train()
    wanted = config.train.profile and processes.is_main
    with (
        closing(t.task.load_steps(t.start_step, t.total_steps, t.workers)) as steps,
        closing(StepProfile(t.folder / "profile", processes.device, wanted=wanted)) as profile,
    ):
        fetched = distributed.in_step(steps, processes)
        for step, micro_batches in enumerate(data_waits_profiled(fetched), start=t.start_step + 1):
            lr = t.schedule.lr_at(step - 1, t.adapted)
            optim.set_lr(t.optimizer, lr)
            with explained(f"step {step}", processes.device):
                losses = update(t, micro_batches, step - 1)
            note_step(t, step, micro_batches, losses)
            profile.after_step()
            pace.add(config.train.images_per_step)
            log.advance()

            is_late = step < t.total_steps and t.ending.is_over_time
            ends = bool(stop) or t.broken.too_many or is_late
            is_stopping = distributed.any_process(ends, processes)
            is_evaluating = t.validation_is_due
            is_saving = t.is_due(step, config.checkpoint.every)
            is_logging = t.is_due(step, config.log.every)
            # at steps of its own, so that log.every changes no number
            is_adapting = t.adapted.is_held and step % ERROR_STEPS == 0
            is_saving = is_saving or (is_logging and t.is_unsaved)
            is_reading = is_logging or is_evaluating or is_saving or is_stopping or is_adapting
            if is_reading or watch.full:
                numbers = watch.read()
                t.broken.collect(processes)
            if is_adapting and t.schedule.see_error(t.adapted, numbers["error_percent"]):
                logger.info(f"step {step}: the error is low enough for the full rate")
            if is_logging:
                log_step(t, log, pace, {**numbers, "lr": lr})
            t.broken.check()
            with pace.paused():
                draw_first(t, micro_batches, step)
                if step == t.total_steps:
                    finalize(t)
                if is_stopping:
                    return leave(t, stop)
                if is_evaluating and not validate(t, log, stop):
                    return leave(t, stop)
                if is_saving or t.ending.is_stalled:
                    save_checkpoint(t)
                if processes.is_main and (is_evaluating or step == t.total_steps):
                    with optional("the curves of log.jsonl"):
                        pictures.draw_curves(t.folder)
            if t.ending.is_stalled:
                return


def make_up(training: Training, log: RunLog, stop: StopRequest) -> None:
    """What the step of a resumed run's checkpoint still needs: to finalize it, to validate it."""
    t = training
    if t.start_step == t.total_steps and not t.finalized:
        finalize(t)
        save_checkpoint(t)
    if t.validation_is_due:
        if not validate(t, log, stop):
            leave(t, stop)
        save_checkpoint(t)


def draw_first(training: Training, micro_batches: Sequence[Any], step: int) -> None:
    """The first batches, as the model gets them."""
    if step <= pictures.NUM_BATCHES and training.processes.is_main:
        path = training.folder / "plots" / f"train_batch{step}.jpg"
        with optional(path.name):
            training.task.draw_batch(micro_batches, step - 1, path)


def note_step(
    training: Training, step: int, micro_batches: Sequence[Any], losses: dict[str, Tensor]
) -> None:
    """Update number `step` has been made: its losses and broken images are known from here on."""
    t = training
    t.step = step
    t.validation_is_due = t.task.val_data is not None and t.is_due(step, t.config.eval.every)
    count = sum(map(num_readable, micro_batches))
    t.watch.add(step, losses, t.task.image_names(micro_batches), count)
    t.broken.add(problem for batch in micro_batches for problem in batch.problems)


def log_step(training: Training, log: RunLog, pace: Pace, numbers: dict[str, float]) -> None:
    """The line of the step that was made last."""
    t, speed = training, pace.images_per_s()
    memory = round(hardware.memory_mb(t.processes.device), 1)
    epoch = round(t.step / t.plan.steps_per_epoch, 4)
    line = {"step": t.step, "epoch": epoch, **numbers}
    line |= {"images_per_s": round(speed, 3), "memory_mb": memory}
    if t.broken.known:
        line["num_broken"] = len(t.broken.known)
    log.training(line, (t.total_steps - t.step) * t.config.train.images_per_step / speed)


@contextmanager
def saved_on_error(training: Training) -> Iterator[None]:
    """Save the last whole step if an error ends the run inside, unless it is that of a loss or
    weight: what is saved would be no good."""
    try:
        yield
    except NonFiniteError:
        raise
    except Exception as error:
        rescue(training, error)
        raise


def rescue(training: Training, error: Exception) -> None:
    """Save what an error would lose; a second error while saving is reported only."""
    t = training
    if not t.processes.is_main or t.step == t.start_step:
        return
    t.optimizer.zero_grad(set_to_none=True)  # room for the copy
    try:
        if t.processes.world_size == 1:  # the others may be gone
            t.watch.read_all()
            t.broken.collect(t.processes)
        save_checkpoint(t, is_last=True)
    except Exception as second:
        if str(second) != str(error):
            logger.error(f"nothing was saved after step {t.step} of {t.total_steps}: {second}")
        return
    logger.info(
        f"an error ends the run after step {t.step} of {t.total_steps}, and that step is saved; "
        "resume with:"
    )
    logger.info(resume_command(t))


def resume_command(training: Training) -> str:
    return f"{train_command(training.config.task)} --resume --run-dir {training.folder}"


def finalize(training: Training) -> None:
    """What the task does to the model after the last update; to its averaged weights as well."""
    t = training
    t.task.finalize(t.precision, t.workers, t.total_steps)
    if t.ema:
        with t.ema.in_model():
            t.task.finalize(t.precision, t.workers, t.total_steps)
    t.finalized = True


def validate(training: Training, log: RunLog, stop: StopRequest) -> bool:
    """Metrics and losses on data.val, best.pt where they are the best so far.

    False where a stop was requested meanwhile; nothing is written then. UserError where too many
    images are broken.
    """
    t = training
    check_weights(t.model, t.step)
    with (
        explained("validation", t.processes.device),
        t.ema.in_model() if t.ema else nullcontext(),
    ):
        validation = t.task.validate(t.precision, t.workers, stop)
    if validation is None:
        return False
    assert t.broken_val is not None, "validation without data.val"
    t.broken_val.learn(validation.broken)
    t.broken_val.check()
    epoch = round(t.step / t.plan.steps_per_epoch, 4)
    log.evaluation({"step": t.step, "epoch": epoch, **validation.line()}, validation.text())
    log.remark(validation.result.remarks)
    if validation.best is not None:
        name, value = validation.best
        if t.schedule.see_metric(t.adapted, value):
            logger.info(f"step {t.step}: {name} is on a plateau; the rate drops")
        # where the disk refused best.pt, the main process alone knows what its best one is
        is_better = t.best is None or value > t.best["value"]
        is_better = distributed.broadcast(is_better, t.processes)
        t.ending.see_metric(is_better=is_better)
        if is_better:
            former, t.best = t.best, {"step": t.step, "metric": name, "value": value}
            if t.processes.is_main:
                changed = {"optimizer": None, "scaler": None, "validation_is_due": False}
                # tells a run that lost its last.pt from one that had not saved any
                changed["had_last"] = (t.folder / "last.pt").is_file()
                try:
                    save(t, "best.pt", t.state() | changed)
                except WriteError as error:
                    logger.warning(
                        f"step {t.step}: {error}. Training continues with the former best"
                    )
                    t.best = former
    # the files belong to best.pt, or without any best to the last validation
    if t.processes.is_main and (t.best is None or t.best["step"] == t.step):
        with optional("the results of the validation"):
            validation.result.run_config = config_to_dict(t.config)
            validation.result.write(t.folder)
    if validation.draw is not None:
        with optional("val_predictions.jpg"):
            validation.draw(t.folder / "plots" / "val_predictions.jpg")
    t.validation_is_due = False
    return True


def save_checkpoint(training: Training, *, is_last: bool = False) -> None:
    """last.pt, by the main process, after a look at the weights by all.

    A disk that refuses it is a warning while steps are left, and is tried again at every line of
    the log; at the end, and where the run is asked to stop, it is an error.
    """
    t = training
    check_weights(t.model, t.step)
    if not t.processes.is_main:
        return
    is_final = (t.finalized or t.ending.is_stalled) and not t.validation_is_due
    write = partial(checkpoint.save_last, is_final=is_final)
    try:
        save(t, "last.pt", t.state(), write)
        t.is_unsaved = False
    except WriteError as error:
        if is_last or t.step == t.total_steps:
            raise
        t.is_unsaved = True
        logger.warning(
            f"step {t.step}: {error}. Training continues, and saves again as soon as it can"
        )


def save(
    training: Training,
    name: str,
    state: dict[str, Any],
    write: Callable[[Path, dict[str, Any]], None] = checkpoint.save,
) -> None:
    """A checkpoint in the run folder, which is made again where someone removed it.

    WriteError where the disk refuses; UserError where another run has taken over the folder.
    """
    t = training
    if t.lock is not None and not t.lock.check():
        logger.warning(f"{t.folder}: was removed, or its lock was; it is made again")
        prepare_folder(Run(t.folder, t.config, None), t.task.split)
    write(t.folder / name, state)


def leave(training: Training, stop: StopRequest) -> None:
    """Save where the run is asked to stop, or has no time left.

    After a signal this ends the program, with the signal's exit code.
    """
    t = training
    save_checkpoint(t, is_last=True)
    is_signal = distributed.any_process(bool(stop), t.processes)
    if not is_signal:
        return  # `run_training` says how to continue
    logger.info(
        f"stopped by a signal after step {t.step} of {t.total_steps}, and saved; resume with:"
    )
    logger.info(resume_command(t))  # a line of its own, to be copied whole
    raise Stopped(stop.exit_code)
