"""Programs of torch.export: a .pt2 file that torch opens without resdet."""

from pathlib import Path

import torch

from resdet.export.network import Network
from resdet.export.nms import nms_together
from resdet.files.writing import open_atomic


def write_torch_export(network: Network, out: Path) -> None:
    """Write `network` as `out`."""
    program = network.program(nms_together)
    with open_atomic(out, "wb") as file:
        torch.export.save(program, file)
