"""`--check`: everything before the first update, with a look at the data and the memory."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from resdet.config.loading import AnyConfig
from resdet.data.detection.split import SPLIT_FILE
from resdet.engine.distributed import Processes
from resdet.engine.run_folder import Run, make_folder
from resdet.engine.setup import Training, prepare
from resdet.engine.step import update
from resdet.errors import UserError

logger = logging.getLogger("resdet")

MIB = 2**20


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
    logger.info(f"memory: about {sum(estimate.values()):.0f} MiB per process ({listed})")
    if processes.device.type == "cuda":
        update(training, micro_batches, 0)
        peak = torch.cuda.max_memory_allocated(processes.device) / MIB
        logger.info(f"memory: {peak:.0f} MiB at the peak of a real update with this batch")
    logger.info("checked; nothing was trained")
    return out


def estimate_memory(training: Training, num_images: int) -> dict[str, float]:
    """MiB by what they hold, for `num_images` of the largest size in one forward pass.

    Activations are what autograd keeps of one image's forward pass, scaled by the area and the
    number of images; work space of convolutions and the framework itself come on top.
    """
    model, config = training.model, training.config
    weights = _mib(list(model.state_dict().values()))
    trained = _mib([p for p in model.parameters() if p.requires_grad])
    moments = 2 if config.optim.name != "sgd" else 1 if config.optim.momentum else 0
    batch, area = training.task.small_batch()
    batch = batch.to(training.processes.device)
    model.train()
    saved: list[int] = []
    # for two images nothing is worth compiling
    eager = torch.compiler.set_stance("force_eager")
    with eager, _counting_saved(model, saved), training.precision.autocast():
        losses, _ = training.task.losses(model, batch, seed=config.train.seed, step=0)
        torch.stack(list(losses.values())).sum()
    scale = num_images / len(batch.paths) * max(1.0, training.task.largest_area() / area)
    return {
        "weights": weights,
        "gradients": trained,
        "optimizer": moments * trained,
        "averaged weights": weights if training.ema else 0.0,
        "activations": sum(saved) / MIB * scale,
    }


def _mib(tensors: Sequence[Tensor]) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB


def _counting_saved(model: nn.Module, sizes: list[int]) -> saved_tensors_hooks:
    """Inside, the bytes of each storage that autograd keeps go to `sizes`; weights are left out."""
    seen = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    held: list[Tensor] = []  # while counting, so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            held.append(tensor.detach())
            sizes.append(storage.nbytes())
        return tensor

    return saved_tensors_hooks(pack, lambda tensor: tensor)
