"""A localizer: a backbone of the registry and the per-class RPN on one of its maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from resdet.data.localization.transforms import LocalizationViews, View
from resdet.files.pixels import to_planes
from resdet.models.class_rpn import ClassRPN
from resdet.models.predict import Predictor
from resdet.ops.boxes import clip_boxes
from resdet.ops.localization import best_boxes, best_proposals
from resdet.structures import Detections, ImageBatch, TargetBatch

if TYPE_CHECKING:
    from resdet.config.localization import LocalizationConfig

FEATURE = "c5"
"""The map that the anchors are on: the whole network is pretrained, and all of it is used."""


class Localizer(Predictor[Detections]):
    """One box per image and class (He et al. 2016, appendix C).

    `forward` gives losses, `guess` a box for each class that is asked for, `propose` many, and
    `predict` the classes with the highest scores. Its state dict has `backbone.…` and `rpn.…`.
    """

    config: LocalizationConfig

    def __init__(
        self,
        backbone: nn.Module,
        rpn: ClassRPN,
        *,
        views: LocalizationViews,
        merge: str,
        vote_iou: float,
        vote_boxes: int,
        num_guesses: int,
        proposal_nms: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        channel_order: str,
        channels_last: bool,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        config: LocalizationConfig,
    ) -> None:
        """`views` cut test images; section `test` of the config explains what follows it."""
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.views = views
        self.merge, self.vote_iou, self.vote_boxes = merge, vote_iou, vote_boxes
        self.num_guesses, self.proposal_nms = num_guesses, proposal_nms
        self.set_input(pixel_mean, pixel_std, channel_order, channels_last=channels_last)
        self.class_names, self.category_ids = list(class_names), list(category_ids)
        self.config = config
        self._map: Callable[[Tensor], Tensor] = self.map

    @property
    def num_classes(self) -> int:
        return self.rpn.num_classes

    def set_compiled(self, compiled: bool) -> None:
        """Run the backbone through torch.compile, or eagerly again."""
        self._map = torch.compile(self.map) if compiled else self.map

    def map(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) → the map (B, C, h, w) that the anchors are on."""
        features: dict[str, Tensor] = self.backbone(images)
        return features[FEATURE]

    def forward(
        self, images: ImageBatch, targets: TargetBatch, *, seed: int, step: int
    ) -> dict[str, Tensor]:
        """Named scalar losses, to be summed: loss_rpn_cls and loss_rpn_box, of square crops."""
        features = self._map(self.to_input(images.images))
        losses: dict[str, Tensor] = self.rpn(features, targets, seed=seed, step=step)
        return losses

    @torch.no_grad()
    def look(self, images: Sequence[Sequence[View]]) -> list[list[Tensor]]:
        """The hidden map (1, C, h, w) of each view of each image; views of one size together."""
        groups: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for row, views in enumerate(images):
            for column, view in enumerate(views):
                groups[(column, *view.pixels.shape)].append((row, column))
        found: dict[tuple[int, int], Tensor] = {}
        for places in groups.values():
            pixels = torch.stack([to_planes(images[row][column].pixels) for row, column in places])
            normal = self.to_input(pixels.to(self.device, non_blocking=True))
            hidden = self.rpn.conv(self._map(normal))
            found.update(zip(places, hidden.split(1), strict=True))
        return [[found[row, column] for column in range(len(v))] for row, v in enumerate(images)]

    @torch.no_grad()
    def candidates(
        self, hidden: Sequence[Tensor], views: Sequence[View], labels: Tensor, size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Scores (L, N), 0..1, and boxes (L, N, 4) of every anchor of every view of one image.

        `hidden` are the maps of its `views` by `look`, `labels` (L,) the classes that are asked
        for, `size` its (height, width). Boxes are in pixels of the image, clipped to their view.
        """
        labels = labels.to(self.device)
        scores, boxes = [], []
        for each, view in zip(hidden, views, strict=True):
            scores.append(self.rpn.score(each, labels)[0].float().sigmoid())
            limits = torch.tensor(view.pixels.shape[:2], device=self.device)
            own = clip_boxes(self.rpn.boxes(each, labels)[0], limits)
            affine = view.affine
            scale = own.new_tensor([affine.scale_x, affine.scale_y])
            shift = own.new_tensor([affine.shift_x, affine.shift_y])
            corners = own.unflatten(-1, (2, 2)) * scale + shift
            # a mirror image swaps left and right
            boxes.append(torch.cat([corners.amin(dim=-2), corners.amax(dim=-2)], dim=-1))
        image_size = torch.tensor([int(size[0]), int(size[1])], device=self.device)
        return torch.cat(scores, dim=1), clip_boxes(torch.cat(boxes, dim=1), image_size)

    @torch.no_grad()
    def guess(
        self, images: Sequence[Sequence[View]], sizes: Sequence[Sequence[int]], labels: Any
    ) -> list[Detections]:
        """One box for each class that is asked for, in the order of the classes.

        `images` are the views of each image, `sizes` their (height, width), and `labels` one tensor
        (L,) per image: its true class, or the best classes of a classifier.
        """
        answers = []
        for hidden, views, size, wanted in zip(
            self.look(images), images, sizes, labels, strict=True
        ):
            scores, boxes = self.candidates(hidden, views, wanted, size)
            answers.append(self.answer(scores, boxes, wanted, size))
        return answers

    def answer(
        self, scores: Tensor, boxes: Tensor, labels: Tensor, size: Sequence[int]
    ) -> Detections:
        """One box for each class from all its candidates: scores (L, N) and boxes (L, N, 4) as
        `candidates` gives them, for `labels` (L,) in an image of (height, width)."""
        return self._detections(*self._best(scores, boxes), labels, size)

    def _best(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return best_boxes(
            scores, boxes, merge=self.merge, vote_iou=self.vote_iou, vote_boxes=self.vote_boxes
        )

    def _detections(
        self, scores: Tensor, boxes: Tensor, labels: Tensor, size: Sequence[int]
    ) -> Detections:
        usable = scores >= 0
        return Detections(
            boxes[usable].float(),
            scores[usable].float(),
            labels.to(scores.device)[usable],
            image_size=(int(size[0]), int(size[1])),
            class_names=self.class_names,
            category_ids=self.category_ids,
        )

    @torch.no_grad()
    def propose(
        self, images: Sequence[Sequence[View]], sizes: Sequence[Sequence[int]], labels: Any, n: int
    ) -> list[Detections]:
        """The `n` best boxes of each class that is asked for, class by class, best first; the
        arguments are those of `guess`."""
        answers = []
        for hidden, views, size, wanted in zip(
            self.look(images), images, sizes, labels, strict=True
        ):
            scores, boxes = self.candidates(hidden, views, wanted, size)
            kept = [
                best_proposals(own, each, n, self.proposal_nms)
                for own, each in zip(scores, boxes, strict=True)
            ]
            counts = torch.tensor([len(own) for own, _ in kept])
            repeated = wanted.cpu().repeat_interleave(counts)
            best = torch.cat([own for own, _ in kept])
            answers.append(
                self._detections(best, torch.cat([each for _, each in kept]), repeated, size)
            )
        return answers

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """(3, H, W) uint8, the image as it is: its views are cut when it is predicted."""
        return to_planes(np.ascontiguousarray(pixels))

    def predict_prepared(
        self,
        images: Sequence[Tensor],
        original_sizes: Sequence[tuple[int, ...]],
        score_thresh: float | None = None,
    ) -> list[Detections]:
        """The best box of each of the `test.num_guesses` classes with the highest scores.

        Scores of different classes can be compared where `model.rpn.trained_classes` is all;
        otherwise a classifier has to give the classes.
        """
        views = [self.views(np.ascontiguousarray(each.permute(1, 2, 0).numpy())) for each in images]
        answers = []
        for hidden, own, size in zip(self.look(views), views, original_sizes, strict=True):
            best = torch.stack([self.rpn.score(each)[0].amax(dim=1) for each in hidden]).amax(dim=0)
            labels = best.topk(min(self.num_guesses, len(best))).indices
            scores, boxes = self._best(*self.candidates(hidden, own, labels, size))
            order = scores.argsort(descending=True, stable=True)
            answer = self._detections(scores[order], boxes[order], labels[order], size).cpu()
            thresh = -1.0 if score_thresh is None else score_thresh
            answers.append(answer[answer.scores > thresh])
        return answers
