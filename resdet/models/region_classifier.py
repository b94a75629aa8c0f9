"""The RoI-centric R-CNN for localization, one crop per proposal (He et al. 2016, appendix C).

The classification network runs on each crop as R-CNN's does (Girshick et al. 2014), and two sibling
layers follow its pooled features, both in a per-class form: K binary logistic classifiers that say
whether the crop shows an object of the class, and K box regressors. Crops of one image overlap so
much that features pooled from one map would hardly differ, hence no Fast R-CNN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.data.localization.regions import RegionBatch, Regions, regions_of, warp
from resdet.errors import UserError, command_line
from resdet.files.pixels import to_planes
from resdet.models.layers import normal_init
from resdet.models.localizer import Localizer
from resdet.models.losses import box_loss_sum, full_precision, mean_over_processes
from resdet.models.predict import Predictor
from resdet.ops.boxes import clip_boxes, decode_boxes
from resdet.structures import Detections

if TYPE_CHECKING:
    from resdet.config.localization import LocalizationConfig


class RegionAnswers(NamedTuple):
    """What a network says about n proposals, each as one of a class."""

    scores: Tensor
    """(n,) 0..1."""
    deltas: Tensor
    """(n, 4) dx, dy, dw, dh relative to the frames, without weights: of several networks they can
    be averaged."""


class RegionClassifier(Predictor[Detections]):
    """A backbone on crops of S × S pixels, the mean over its last map, and two sibling layers.

    `forward` gives losses, `answer` scores and deltas of crops, `rescore` those of proposals in an
    image. Its state dict has `backbone.…`, `cls_score.…` and `bbox_pred.…`.
    """

    config: LocalizationConfig

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        *,
        feature: str,
        side: int,
        context: float,
        flip: bool,
        box_weights: Sequence[float],
        box_loss: str,
        smooth_l1_beta: float,
        box_loss_weight: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        channel_order: str,
        channels_last: bool,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        config: LocalizationConfig,
    ) -> None:
        """`channels` are those of the map `feature`; `context` as in `regions_of`; with `flip`
        each crop is tested with its mirror image."""
        super().__init__()
        self.backbone, self.feature = backbone, feature
        self.side, self.context, self.flip = side, context, flip
        self.box_weights, self.box_loss = tuple(box_weights), box_loss
        self.smooth_l1_beta, self.box_loss_weight = smooth_l1_beta, box_loss_weight
        self.cls_score = nn.Linear(channels, len(class_names))
        self.bbox_pred = nn.Linear(channels, 4 * len(class_names))
        normal_init(self.cls_score, 0.01)
        normal_init(self.bbox_pred, 0.001)
        self.set_input(pixel_mean, pixel_std, channel_order, channels_last=channels_last)
        self.class_names, self.category_ids = list(class_names), list(category_ids)
        self.config = config
        self._pooled: Callable[[Tensor], Tensor] = self.pooled

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def fill(self) -> tuple[int, ...]:
        """RGB of what a crop shows outside its image: the mean, which normalisation makes 0."""
        return fill_of(self.get_buffer("pixel_mean").flatten().tolist(), self.channel_order)

    def set_compiled(self, compiled: bool) -> None:
        """Run the backbone through torch.compile, or eagerly again."""
        self._pooled = torch.compile(self.pooled) if compiled else self.pooled

    def pooled(self, images: Tensor) -> Tensor:
        """Normalised crops (R, 3, S, S) → features (R, C), the mean over the map."""
        features: dict[str, Tensor] = self.backbone(images)
        return features[self.feature].mean((2, 3))

    def heads(self, crops: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R,) and weighted deltas (R, 4) of crops, as the classes `labels` (R,)."""
        hidden = self._pooled(self.to_input(crops))
        logits, deltas = self.cls_score(hidden), self.bbox_pred(hidden).unflatten(1, (-1, 4))
        own = full_precision(logits.gather(1, labels[:, None])[:, 0])
        row = labels[:, None, None].expand(-1, 1, 4)
        return own, full_precision(deltas.gather(1, row)[:, 0])

    def forward(self, batch: RegionBatch) -> dict[str, Tensor]:
        """Named scalar losses, to be summed: loss_cls, a binary cross-entropy of each crop's own
        class, and loss_box of the positives; both are divided by all valid crops."""
        logits, deltas = self.heads(batch.crops, batch.labels)
        wanted = batch.positive.to(logits.dtype)
        cls = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        cls = torch.where(batch.valid, cls, cls.new_zeros(())).sum()
        box = box_loss_sum(
            deltas,
            batch.frames,
            batch.gt_boxes,
            batch.positive,
            weights=self.box_weights,
            loss=self.box_loss,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        count = batch.valid.sum()
        return {
            "loss_cls": mean_over_processes(cls, count),
            "loss_box": mean_over_processes(box, count) * self.box_loss_weight,
        }

    @torch.no_grad()
    def answer(self, crops: Tensor, labels: Tensor) -> RegionAnswers:
        """Scores and deltas of crops (n, 3, S, S) uint8 RGB as the classes `labels` (n,); with
        `flip` the mean of both sides'."""
        crops, labels = crops.to(self.device), labels.to(self.device)
        answers = [self._one_side(crops, labels)]
        if self.flip:
            scores, deltas = self._one_side(crops.flip(-1), labels)
            answers.append(RegionAnswers(scores, deltas * deltas.new_tensor([-1, 1, 1, 1])))
        return mean_answer(answers)

    def _one_side(self, crops: Tensor, labels: Tensor) -> RegionAnswers:
        logits, deltas = self.heads(crops, labels)
        return RegionAnswers(logits.sigmoid(), deltas / deltas.new_tensor(self.box_weights))

    def cut(self, pixels: np.ndarray, boxes: np.ndarray) -> tuple[Tensor, Regions]:
        """Crops (n, 3, S, S) uint8 of proposals (n, 4) xyxy in an image (H, W, 3) uint8."""
        regions = regions_of(boxes, self.context)
        crops = [
            to_planes(warp(pixels, window, self.side, self.fill))
            for window in regions.windows.tolist()
        ]
        empty = torch.zeros(0, 3, self.side, self.side, dtype=torch.uint8)
        return (torch.stack(crops) if crops else empty), regions

    def prepare(self, pixels: np.ndarray) -> Tensor:
        raise needs_proposals()

    def predict_prepared(
        self,
        images: Sequence[Tensor],
        original_sizes: Sequence[tuple[int, ...]],
        score_thresh: float | None = None,
    ) -> list[Detections]:
        raise needs_proposals()


AnyLocalizer = Localizer | RegionClassifier
"""The networks of task localization."""


def needs_proposals() -> UserError:
    """Why an R-CNN can't predict on images alone."""
    return UserError(
        "an R-CNN for localization works on proposals and finds none by itself; evaluate it with "
        f"{command_line('eval-imagenet')} --task loc RUN --proposals RPN_RUN"
    )


def fill_of(pixel_mean: Sequence[float], channel_order: str) -> tuple[int, ...]:
    """RGB 0..255 of a mean in either order of channels."""
    values = [min(max(round(value), 0), 255) for value in pixel_mean]
    return tuple(reversed(values)) if channel_order == "bgr" else tuple(values)


def mean_answer(answers: Sequence[RegionAnswers]) -> RegionAnswers:
    """The mean of scores and of deltas, over networks or views (He et al. 2016, appendix B)."""
    if len(answers) == 1:
        return answers[0]
    scores, deltas = (torch.stack(each).mean(dim=0) for each in zip(*answers, strict=True))
    return RegionAnswers(scores, deltas)


def refined_boxes(answers: RegionAnswers, frames: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes (n, 4) xyxy in pixels from frames (n, 4), clipped to an image of (height, width)."""
    boxes = decode_boxes(answers.deltas, frames.to(answers.deltas.device), (1.0, 1.0, 1.0, 1.0))
    limits = torch.tensor([int(size[0]), int(size[1])], device=boxes.device)
    return clip_boxes(boxes, limits)
