"""Programs of torch.export: a .pt2 file that torch opens without resdet."""

from pathlib import Path

import torch

from resdet.export.network import Network
from resdet.export.nms import nms_together
from resdet.export.refusals import refusing
from resdet.files.writing import open_atomic


def write_torch_export(network: Network, out: Path) -> None:
    """Write `network` as `out`. UserError where torch does not trace or store it."""
    program = network.program(nms_together)
    what = f"{network.name}: torch.export does not store the network"
    with refusing(what, "export to .onnx"), open_atomic(out, "wb") as file:
        torch.export.save(program, file)
