"""A model on its way into a file: its graph, example inputs, and which of their sides are free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as fx_config

from resdet.export.graph import ClassifierGraph, DetectorGraph, Suppress
from resdet.export.nms import nms_by_rows
from resdet.export.paste import PastedGraph
from resdet.export.refusals import refusing, without_notes
from resdet.models.classifier import Classifier
from resdet.models.rcnn import RCNN

EXAMPLE_BATCH, EXAMPLE_SIDES = 2, (128, 160)
"""Of the images that a free size is traced with; they may be any but 1."""
SMALLEST_SIDE = 64
"""In pixels, where sides are free: a map of one cell would have no neighbour."""


@dataclass(frozen=True)
class Network:
    """What an export target writes, see `EXPORTS`."""

    model: RCNN | Classifier
    size: tuple[int, int] | None
    """Height and width in pixels of all images, one at a time; None where both are free, and how
    many there are."""
    is_pasted: bool = False
    """Whether masks are pasted into the original image inside."""
    source: str = "the model"
    """As messages call it: the run or weights."""

    def inputs(self) -> dict[str, Tensor]:
        """Examples of the inputs by name."""
        batch = 1 if self.size else EXAMPLE_BATCH
        if isinstance(self.model, Classifier):
            side = self.model.test_size
            return {"images": torch.zeros((batch, 3, side, side), dtype=torch.uint8)}
        height, width = self.size or EXAMPLE_SIDES
        dtype = torch.float32 if self.model.test_resize_method == "float" else torch.uint8
        images = torch.zeros((batch, 3, height, width), dtype=dtype)
        sizes = torch.tensor([[height, width]]).repeat(batch, 1)
        if self.is_pasted:
            return {"images": images, "sizes": sizes, "original_sizes": sizes.clone()}
        return {"images": images, "sizes": sizes}

    def free(self) -> dict[str, dict[int, Any]] | None:
        """The free dimensions of each input, by position; None where all are fixed."""
        if self.size is not None:
            return None
        batch = Dim("batch")
        if isinstance(self.model, Classifier):
            return {"images": {0: batch}}
        divisor = self.model.size_divisibility
        height: Any = Dim("height", min=SMALLEST_SIDE)
        width: Any = Dim("width", min=SMALLEST_SIDE)
        if divisor > 1:
            height, width = divisor * Dim("rows"), divisor * Dim("columns")
        free: dict[str, dict[int, Any]] = {name: {0: batch} for name in self.inputs()}
        free["images"] |= {2: height, 3: width}
        return free

    @property
    def name(self) -> str:
        """The model in messages: its source, and its backbone, which may be the user's own."""
        backbone = getattr(getattr(self.model.config, "model", None), "backbone", None)
        name = getattr(backbone, "name", None)
        return self.source if name is None else f"{self.source}, with the backbone {name}"

    def program(self, suppress: Suppress = nms_by_rows) -> ExportedProgram:
        """The traced network, whose outputs are a dict; `suppress` is the NMS it contains.
        UserError for a model that torch.export does not trace."""
        import torchvision  # noqa: F401  # its operators are looked up while tracing

        graph: torch.nn.Module
        if isinstance(self.model, Classifier):
            graph = ClassifierGraph(self.model)
        else:
            graph = DetectorGraph(self.model, suppress)
            graph = PastedGraph(graph) if self.is_pasted else graph
        inputs = tuple(self.inputs().values())
        free = self.free()
        remedy = "write what depends on tensors with torch's operators, such as torch.where for if"
        if free is not None:
            remedy += "; if it depends on their sizes alone, leave --dynamic out"
        with (
            torch.no_grad(),
            # else sides whose coarsest map has one cell are left out, as torch treats 1 apart
            fx_config.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]
            without_notes(),
            refusing(f"{self.name}: torch.export does not trace the network", remedy),
        ):
            return torch.export.export(
                graph, inputs, dynamic_shapes=None if free is None else tuple(free.values())
            )
