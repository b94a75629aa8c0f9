"""Detectors at test time: several sizes of the image, its mirror image, refined boxes, ensembles.

Each view of an image gives candidates: every region's class scores and boxes, and with refinement
those of the regressed boxes too. The candidates of all views meet in pixels of the original image
(`joining.join`), and the branches (masks) are computed for what is kept, in every view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from resdet.config.testing import TestConfig
from resdet.files.scale import shrink_problem
from resdet.inference.joining import concatenate, join
from resdet.inference.members import check_members, class_orders
from resdet.inference.region_scores import Maps, Scales, size_ratios
from resdet.inference.sizes import Prepared, plan_sizes
from resdet.inference.view import View, find_candidates, propose
from resdet.models.fpn import FPN
from resdet.models.predict import Predictor
from resdet.models.rcnn import RCNN
from resdet.models.regions import MergingBranch, RoIDetections
from resdet.ops.boxes import clip_boxes
from resdet.structures import Detections, collate_images


class CombinedDetector(Predictor[Detections]):
    """One detector with the switches of a config's section `test`, or an ensemble of several.

    It predicts what its first member predicts, with the thresholds, limits and class ids of that.
    Members of an ensemble classify the union of all members' proposals (He et al. 2016, appendix
    C); they may differ in everything but the names of their classes.
    """

    def __init__(self, models: Sequence[RCNN], test: TestConfig, names: Sequence[str] = ()) -> None:
        """`names` are how messages call the models. UserError where the models do not fit
        together, or `test` does not fit them."""
        super().__init__()
        self.members = nn.ModuleList(models)
        self.test = test
        first = models[0]
        has_pyramid = any(isinstance(model.fpn, FPN) for model in models)
        check_members(models, names, test, has_pyramid=has_pyramid)
        self.adjacent = test.is_adjacent(has_pyramid)
        self.num_views = test.num_views(has_pyramid)
        for number, order in enumerate(class_orders(models)):
            self.register_buffer(f"class_order_{number}", order, persistent=False)
        self.prepared, self._plans = plan_sizes(models, test, adjacent=self.adjacent)
        self.config, self.channels_last = first.config, first.channels_last
        self.precision, self.seen, self.tile_scale = first.precision, first.seen, first.tile_scale
        self.is_imported = any(model.is_imported for model in models)
        self.class_names, self.category_ids = first.class_names, first.category_ids
        self.num_classes = first.num_classes
        self.has_masks = first.has_masks

    @property
    def models(self) -> list[RCNN]:
        """The members, typed."""
        return [model for model in self.members if isinstance(model, RCNN)]

    @property
    def device(self) -> torch.device:
        return self.models[0].device

    def place(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """As `Predictor.place`, every member in its own memory layout."""
        for model in self.models:
            model.place(device, dtype)
        self.to(device)

    def size_problem(self, size: tuple[int, int]) -> str | None:
        largest = max(self.prepared.sizes, key=lambda each: each.short_edge)
        return shrink_problem(size, largest.short_edge, largest.max_size, self.seen)

    def prepare(self, pixels: np.ndarray, *, is_tile: bool = False) -> Prepared:
        """(H, W, 3) uint8 RGB in every size that is needed, each once; a tile of an image is
        resized by the `tile_scale` of each member, and in proportion for other scales."""
        return self.prepared(pixels, is_tile=is_tile)

    def predict_prepared(
        self,
        images: Sequence[Prepared],
        original_sizes: Sequence[tuple[int, ...]],
        score_thresh: float | None = None,
    ) -> list[Detections]:
        sizes = [(int(height), int(width)) for height, width in original_sizes]
        originals = torch.tensor(sizes, device=self.device)
        first = self.models[0]
        own = first.roi_heads.score_thresh
        # A higher threshold of a call is for what comes out: voters and fused boxes stay the same.
        lowest = own if score_thresh is None else min(own, score_thresh)
        # The maps of a view are needed again for its branches only.
        keep = bool(first.roi_heads.branches)
        views, found = [], []
        for view in self._views(images):
            found.append(self._candidates(view, originals, lowest))
            if keep:
                views.append(view)
        detections = join(
            concatenate(found),
            self.test,
            num_classes=self.num_classes,
            num_views=self.num_views,
            nms_thresh=first.roi_heads.nms_thresh,
            score_thresh=own if score_thresh is None else score_thresh,
            limit=first.roi_heads.detections_per_image,
        )
        if keep:
            detections.extra |= self._branches(views, detections, originals)
        batch = first.by_image(detections, originals, originals, sizes)
        return [image.cpu() for image in batch]

    def _views(self, images: Sequence[Prepared]) -> Iterator[View]:
        """The passes that detect by themselves, one at a time."""
        scales = range(len(self._plans[0].scales))
        passes = [tuple(scales)] if self.adjacent else [(scale,) for scale in scales]
        for is_mirrored in (False, True) if self.test.flip else (False,):
            for chosen in passes:
                yield self._view(images, chosen, is_mirrored)

    def _view(self, images: Sequence[Prepared], chosen: Sequence[int], is_mirrored: bool) -> View:
        members: list[Scales] = []
        boxes, owners = [], []
        frame: Tensor | None = None
        for number, (model, plan) in enumerate(zip(self.models, self._plans, strict=True)):
            scales = [plan.scales[scale] for scale in chosen]
            maps = {size: self._maps(model, images, size, is_mirrored) for size in scales}
            sources = list(maps.values())
            if plan.test is not None:
                at_test = maps.get(plan.test)
                sources = [at_test or self._maps(model, images, plan.test, is_mirrored)]
            # Where the first member's proposals are made: nothing is rounded on its way there.
            frame = sources[-1].sizes if frame is None else frame
            own, images_of = propose(sources, frame)
            boxes.append(own)
            owners.append(images_of)
            members.append(
                Scales(
                    list(maps.values()),
                    frame,
                    self.get_buffer(f"class_order_{number}"),
                    self.test.maxout,
                    self.test.second_scale,
                )
            )
        return View(members, torch.cat(boxes), torch.cat(owners), is_mirrored)

    def _maps(self, model: RCNN, images: Sequence[Prepared], size: int, is_mirrored: bool) -> Maps:
        pixels = [image[size].flip(-1) if is_mirrored else image[size] for image in images]
        batch = collate_images(pixels, model.size_divisibility).to(self.device)
        return Maps(model, model.levels(batch), batch.sizes)

    def _candidates(self, view: View, originals: Tensor, score_thresh: float) -> RoIDetections:
        """Those of one view, in pixels of the originals (B, 2) as they are."""
        heads = self.models[0].roi_heads
        frame = view.members[0].frame
        found = find_candidates(
            view,
            refine=self.test.refine_classes if self.test.refine else None,
            score_thresh=score_thresh,
            min_size=heads.min_detection_size,
        )
        if self.test.merge == "wbf":
            found = heads.suppress(found)
        boxes = found.boxes * size_ratios(frame, originals)[found.images]
        if view.is_mirrored:
            boxes = mirror(boxes, originals[found.images])
        return replace(found, boxes=clip_boxes(boxes, originals[found.images]))

    def _branches(
        self, views: Sequence[View], detections: RoIDetections, originals: Tensor
    ) -> dict[str, Tensor]:
        """What the first member's branches give in all views, and those of the same name in other
        members; merged."""
        branches = self.models[0].roi_heads.branches
        results: dict[str, list[dict[str, Tensor]]] = {name: [] for name in branches}
        mirrored: dict[str, list[bool]] = {name: [] for name in branches}
        for view in views:
            boxes, sizes = detections.boxes, originals[detections.images]
            if view.is_mirrored:
                boxes = mirror(boxes, sizes)
            ratio = size_ratios(originals, view.members[0].frame)[detections.images]
            own = replace(detections, boxes=boxes * ratio)
            for member in view.members:
                for name in branches.keys() & member.model.roi_heads.branches.keys():
                    given = member.branch_results(name, own)
                    results[name] += given
                    mirrored[name] += [view.is_mirrored] * len(given)
        merged: dict[str, Tensor] = {}
        for name, branch in branches.items():
            if len(results[name]) == 1:
                merged |= results[name][0]
            else:
                assert isinstance(branch, MergingBranch), "refused when it was built"
                merged |= branch.merge_views(results[name], mirrored[name])
        return merged


def combine(models: Sequence[RCNN], names: Sequence[str]) -> RCNN | CombinedDetector:
    """The detector to test with: a single model as it is if the section `test` of its config
    changes nothing, else a `CombinedDetector` with that section of the first model's config.

    `names` are how messages call the models. UserError where they do not fit together.
    """
    test = models[0].config.test if models[0].config is not None else TestConfig()
    if len(models) == 1 and not test.is_on:
        return models[0]
    return CombinedDetector(models, test, names)


def mirror(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (N, 4) where the mirror image has them; `sizes` (N, 2) are its (height, width)."""
    width = sizes[:, 1].to(boxes.dtype)
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)
