"""fc6 and fc7 of a VGG for a detector's box heads (Girshick 2015, 2.2; Ren et al. 2015, 3.2)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from resdet.errors import UserError
from resdet.interop.loaded import LoadedWeights

# Our names of the two layers in a box head, and in the files that may hold them: our classifiers,
# torchvision's without their last layer, and detectors with such a head.
LAYERS = {
    "fcs.0": ("head.classifier.0", "classifier.0", "roi_heads.stages.0.fcs.0"),
    "fcs.2": ("head.classifier.3", "classifier.3", "roi_heads.stages.0.fcs.2"),
}
CLASSIFIER = "torchvision:vgg16.IMAGENET1K_V1"


def vgg_layers(weights: LoadedWeights) -> tuple[dict[str, Tensor], list[str]]:
    """The two layers in `weights`, weight and bias, by their names in a box head; and their names
    in the weights.

    Raises UserError for weights without them: a backbone alone, or another network.
    """
    state, names = {}, []
    for ours, theirs in LAYERS.items():
        for part in ("weight", "bias"):
            found = [name for name in theirs if f"{name}.{part}" in weights.state]
            value = weights.state[f"{found[0]}.{part}"] if found else None
            # torchvision publishes one file (IMAGENET1K_FEATURES) with NaN in these layers
            if value is None or not bool(torch.isfinite(value).all()):
                raise UserError(
                    f"{weights.source}: holds no fc6 and fc7, from which model.roi.box_head.type "
                    f"vgg starts; give the weights of a whole classifier, such as {CLASSIFIER}, as "
                    "model.backbone.weights"
                )
            state[f"{ours}.{part}"] = value
            names.append(f"{found[0]}.{part}")
    return state, names


def check_layers(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], names: Sequence[str], source: str
) -> None:
    """UserError where the layers of `vgg_layers` have other shapes than those of a box head's state
    dict `own`."""
    for (ours, value), theirs in zip(state.items(), names, strict=True):
        if value.shape != own[ours].shape:
            raise UserError(
                f"{source}: {theirs} has shape {tuple(value.shape)}, and the box head needs "
                f"{tuple(own[ours].shape)}; set model.roi.box_head.fc_dim={len(value)}"
            )
