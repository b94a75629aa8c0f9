"""Sections of the RoI-centric R-CNN for localization, and of the proposals that it works on."""

from typing import Annotated

from pydantic import Field

from resdet.config.fields import (
    BelowOne,
    Boxes,
    BoxLoss,
    DataPath,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    Section,
)


class RegionConfig(Section):
    """An R-CNN that sees one crop per proposal, warped to data.size (He et al. 2016, app. C)."""

    context: BelowOne = 0.0
    """Share of the crop's sides that is outside the proposal, half of it at each end; R-CNN's 16
    pixels at each end of 227 are 0.141."""
    foreground_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A proposal with at least this IoU with an object of its class is a positive."""
    positive_fraction: Fraction = 0.5
    """Share of positives among the crops of training, where an image has both kinds."""
    rois_per_image: Boxes = 1
    """Crops taken from each image of a batch; with 1 the crops of an update are of different
    images, with more of them fewer images are decoded."""
    num_proposals: Boxes = 200
    """Best-scored proposals of the class in each image that training and testing use."""
    box_weights: Annotated[list[PositiveFloat], Field(min_length=4, max_length=4)] = [10, 10, 5, 5]
    """Weights of the deltas dx, dy, dw, dh, one over their deviation."""
    box_loss: BoxLoss = "smooth_l1"
    """Loss on the box deltas of positives (giou: on the decoded boxes)."""
    smooth_l1_beta: PositiveFloat = 1.0
    """Where smooth_l1 turns from quadratic to linear."""
    box_loss_weight: NonNegativeFloat = 1.0
    """Weight of the box loss beside the classification loss."""


class ProposalsConfig(Section):
    train: DataPath | list[DataPath] | None = None
    """Proposals file of data.train, or a list of files that share its images; `predict RUN
    --proposals` writes them."""
    val: DataPath | list[DataPath] | None = None
    """Proposals file of data.val; null looks in those of `train`."""
