"""`--check`: everything before the first update, with a look at the data and the memory."""

import logging
from pathlib import Path

import torch

from resdet.config.loading import AnyConfig
from resdet.data.detection.split import SPLIT_FILE
from resdet.engine.distributed import Processes
from resdet.engine.estimate import MIB, describe_batch, estimate_memory, free_memory, largest_batch
from resdet.engine.run_folder import Run, make_folder
from resdet.engine.setup import prepare
from resdet.engine.step import update
from resdet.errors import UserError
from resdet.factory.survey import survey_data
from resdet.memory import resident_memory

logger = logging.getLogger("resdet")


def check_run(
    config: AnyConfig | None, folder: Path, *, processes: Processes, strict: bool
) -> Path:
    """Resolve the config, read all the data, draw one batch, estimate memory; trains nothing.

    The picture goes to the run folder's name with `_check`, so that the run itself can start
    afterwards. Returns that folder.
    """
    if config is None:
        raise UserError("--check needs a CONFIG")
    out = folder.with_name(f"{folder.name}_check")
    if folder.exists():
        logger.info(f"note: {folder} exists; training there needs --resume")
    run = Run(out, config, None)
    training = prepare(run, processes, strict=strict, decode_all=True)
    micro_batches = next(training.task.load_steps(0, 1, workers=0))
    if processes.is_main:
        survey_data(training.config, training.task.train_data, training.task.val_data).log()
        make_folder(out)
        if training.task.split is not None:
            training.task.split.write(out / SPLIT_FILE)
            logger.info(f"the images that would be held out: {out / SPLIT_FILE}")
        training.task.draw_batch(micro_batches, 0, out / "train_batch.jpg")
        logger.info(f"drew one batch: {out / 'train_batch.jpg'}")
    shapes = ", ".join(str(batch.shape) for batch in micro_batches)
    logger.info(f"first batch: {shapes}")
    estimate = estimate_memory(training, len(micro_batches[0].paths))
    listed = ", ".join(f"{name} {size:.0f}" for name, size in estimate.items())
    held = resident_memory() if processes.device.type == "cpu" else None
    beside = "" if held is None else f", beside the {held / MIB:.0f} MiB that it has now"
    logger.info(f"memory: about {sum(estimate.values()):.0f} MiB per process ({listed}){beside}")
    if (free := free_memory(processes.device)) is not None:
        images = len(micro_batches[0].paths)
        logger.info(describe_batch(largest_batch(estimate, images, free), free))
    if processes.device.type == "cuda":
        update(training, micro_batches, 0)
        peak = torch.cuda.max_memory_allocated(processes.device) / MIB
        logger.info(f"memory: {peak:.0f} MiB at the peak of a real update with this batch")
    logger.info("checked; nothing was trained")
    return out
