"""One box per image and class from trained localizers: RPNs, R-CNNs on proposals, and ensembles.

The classes are given: the true one, or the best ones of a classifier. An ensemble of RPNs averages
scores and boxes anchor by anchor. An ensemble of R-CNNs takes the union of the proposals; every
member judges every proposal, and scores and deltas are averaged (He et al. 2016, appendices B and
C). Of a class's boxes the one with the best new score is the guess; since there is one guess per
class, NMS would change nothing. `test.merge: vote` averages it with the boxes that overlap it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resdet.data.detection.outlines import Affine
from resdet.data.localization.dataset import TestImage
from resdet.data.localization.transforms import View
from resdet.errors import UserError, first_few
from resdet.files.findings import DataError
from resdet.files.proposals import Proposals
from resdet.models.localizer import Localizer
from resdet.models.region_classifier import RegionClassifier, mean_answer, refined_boxes
from resdet.ops.localization import best_boxes
from resdet.structures import Detections

Boxes = NDArray[np.float32]


class Views(Protocol):
    """Cuts an image into what a network sees of it."""

    def __call__(self, image: NDArray[np.uint8]) -> list[View]: ...


def whole_image(image: NDArray[np.uint8]) -> list[View]:
    """(H, W, 3) as its only view, in its own size."""
    return [View(image, Affine())]


class JoinedViews:
    """The views of several networks in one list."""

    def __init__(self, parts: Sequence[Views]) -> None:
        self.parts = list(parts)
        self.counts = [len(part(np.zeros((64, 64, 3), np.uint8))) for part in self.parts]
        """Views of each of them; the same for every image."""

    def __call__(self, image: NDArray[np.uint8]) -> list[View]:
        return [view for part in self.parts for view in part(image)]

    def of(self, views: Sequence[View], part: int) -> list[View]:
        """Those of one network among the views of an image."""
        start = sum(self.counts[:part])
        return list(views[start : start + self.counts[part]])


class Guesser(ABC):
    """What gives boxes for the classes that are asked for."""

    networks: Sequence[Localizer | RegionClassifier]
    """Its members, of the same classes."""
    views: JoinedViews

    @property
    def class_names(self) -> list[str]:
        return self.networks[0].class_names

    @abstractmethod
    def guess(self, images: Sequence[TestImage], labels: Sequence[Tensor]) -> list[Detections]:
        """One box for each class that is asked for, in their order; on the CPU.

        `labels` has a tensor (L,) per image, which was cut by `views`.
        """


class RPNGuesser(Guesser):
    """One RPN, or several of which scores and boxes are averaged anchor by anchor."""

    def __init__(self, networks: Sequence[Localizer]) -> None:
        check_members(networks)
        self.networks: Sequence[Localizer] = list(networks)
        self.views = JoinedViews([network.views for network in networks])

    def guess(self, images: Sequence[TestImage], labels: Sequence[Tensor]) -> list[Detections]:
        first, joined = self.networks[0], self.views
        seen = [
            [joined.of(image.views, part) for image in images] for part in range(len(self.networks))
        ]
        hidden = [network.look(own) for network, own in zip(self.networks, seen, strict=True)]
        answers = []
        for row, (image, wanted) in enumerate(zip(images, labels, strict=True)):
            pairs = [
                network.candidates(hidden[part][row], seen[part][row], wanted, image.size)
                for part, network in enumerate(self.networks)
            ]
            if len({scores.shape for scores, _ in pairs}) > 1:
                raise UserError(
                    "the RPNs of an ensemble need the same anchors: give them the same model.rpn "
                    "and section test, or give their proposals to an R-CNN by --proposals"
                )
            scores, boxes = (torch.stack(each).mean(dim=0) for each in zip(*pairs, strict=True))
            answers.append(first.answer(scores, boxes, wanted, image.size).cpu())
        return answers


class ProposalSource(Protocol):
    """Where an R-CNN's proposals come from."""

    views: JoinedViews

    def boxes(self, image: TestImage, views: Sequence[View], labels: Tensor) -> list[Boxes]:
        """Proposals (n, 4) xyxy in pixels of each of the classes `labels` (L,), n at least 1."""
        ...


class StoredProposals:
    """Proposals from files, `limit` of each class at most."""

    def __init__(self, proposals: Proposals, limit: int, class_names: Sequence[str]) -> None:
        """`class_names` are those of the labels that are asked for."""
        self.proposals, self.limit, self.class_names = proposals, limit, list(class_names)
        self.views = JoinedViews([])
        names = {name: label for label, name in enumerate(proposals.class_names)}
        self._labels = [names.get(name, -1) for name in self.class_names]

    def boxes(self, image: TestImage, views: Sequence[View], labels: Tensor) -> list[Boxes]:
        every = []
        for label in labels.tolist():
            boxes, _ = self.proposals.of_class(image.index, self._labels[label], self.limit)
            if not len(boxes):
                files = ", ".join(file.path for file in self.proposals.files)
                raise DataError(
                    f"{files}: image {image.image_id!r}: no proposals of class "
                    f"{self.class_names[label]}; give the RPN's run as --proposals, which "
                    "proposes boxes of every class"
                )
            every.append(boxes)
        return every


class RPNProposals:
    """Proposals that RPNs make of each image: the union of the best `limit` of every one."""

    def __init__(
        self, networks: Sequence[Localizer], limit: int, class_names: Sequence[str]
    ) -> None:
        """`class_names` are those of the labels that are asked for."""
        check_members(networks)
        self.networks, self.limit = list(networks), limit
        self.views = JoinedViews([network.views for network in networks])
        own = {name: label for label, name in enumerate(networks[0].class_names)}
        absent = [name for name in class_names if name not in own]
        if absent:
            raise UserError(
                f"the RPN of --proposals does not know {len(absent)} class(es) of the R-CNN: "
                f"{first_few(absent, 4)}; give an RPN of the same classes"
            )
        self._labels = torch.tensor([own[name] for name in class_names])

    def boxes(self, image: TestImage, views: Sequence[View], labels: Tensor) -> list[Boxes]:
        every: list[list[Boxes]] = [[] for _ in labels]
        wanted = self._labels[labels.cpu()]
        for part, network in enumerate(self.networks):
            own = self.views.of(views, part)
            (found,) = network.propose([own], [image.size], [wanted], self.limit)
            found = found.cpu()
            for place, label in enumerate(wanted.tolist()):
                every[place].append(found.boxes[found.labels == label].numpy())
        height, width = image.size
        whole = np.array([[0, 0, width, height]], np.float32)
        # an RPN without a usable box leaves the whole image
        joined = [np.concatenate(boxes) for boxes in every]
        return [boxes if len(boxes) else whole for boxes in joined]


class RegionGuesser(Guesser):
    """One R-CNN on proposals, or several of which scores and deltas are averaged.

    Args:
        networks: the members; the first one's `test.merge` is used.
        source: where the proposals come from.
        batch_size: crops per forward pass.
        workers: threads that cut crops.
    """

    def __init__(
        self,
        networks: Sequence[RegionClassifier],
        source: ProposalSource,
        *,
        batch_size: int = 64,
        workers: int = 1,
    ) -> None:
        check_members(networks)
        self.networks: Sequence[RegionClassifier] = list(networks)
        self.source, self.batch_size, self.workers = source, batch_size, workers
        self.views = JoinedViews([whole_image, source.views])

    def guess(self, images: Sequence[TestImage], labels: Sequence[Tensor]) -> list[Detections]:
        return [self._one(image, wanted) for image, wanted in zip(images, labels, strict=True)]

    def _one(self, image: TestImage, labels: Tensor) -> Detections:
        pixels = self.views.of(image.views, 0)[0].pixels
        every = self.source.boxes(image, self.views.of(image.views, 1), labels)
        counts = [len(boxes) for boxes in every]
        boxes = np.concatenate(every)
        each_label = labels.cpu().repeat_interleave(torch.tensor(counts))
        scores, refined = self.rescore(pixels, boxes, each_label)
        test = self.networks[0].config.test
        merge = partial(
            best_boxes, merge=test.merge, vote_iou=test.vote_iou, vote_boxes=test.vote_boxes
        )
        # classes may have different numbers of proposals
        best = [
            merge(own[None], some[None])
            for own, some in zip(scores.split(counts), refined.split(counts), strict=True)
        ]
        first = self.networks[0]
        return Detections(
            torch.cat([boxes for _, boxes in best]).float().cpu(),
            torch.cat([scores for scores, _ in best]).float().cpu(),
            labels.cpu(),
            image_size=image.size,
            class_names=first.class_names,
            category_ids=first.category_ids,
        )

    def rescore(
        self, pixels: NDArray[np.uint8], boxes: Boxes, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New scores (n,) and boxes (n, 4) xyxy in pixels of proposals (n, 4), each as one of the
        classes `labels` (n,), in an image (H, W, 3)."""
        cut: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        answers = []
        for network in self.networks:
            key = (network.side, network.context, network.fill)
            if key not in cut:
                cut[key] = self._cut(network, pixels, boxes)
            crops, _ = cut[key]
            parts = [
                network.answer(some, own)
                for some, own in zip(
                    crops.split(self.batch_size), labels.split(self.batch_size), strict=True
                )
            ]
            answers.append(type(parts[0])(*(torch.cat(each) for each in zip(*parts, strict=True))))
        # frames of other contexts differ by the rounding of their windows
        frames = next(iter(cut.values()))[1]
        mean = mean_answer(answers)
        return mean.scores, refined_boxes(mean, frames, pixels.shape[:2])

    def _cut(
        self, network: RegionClassifier, pixels: NDArray[np.uint8], boxes: Boxes
    ) -> tuple[Tensor, Tensor]:
        """Crops (n, 3, S, S) and frames (n, 4)."""
        parts = np.array_split(boxes, max(1, min(self.workers, len(boxes))))
        if len(parts) == 1:
            pairs = [network.cut(pixels, boxes)]
        else:
            with ThreadPoolExecutor(len(parts)) as pool:
                pairs = list(pool.map(partial(network.cut, pixels), parts))
        frames = np.concatenate([regions.frames for _, regions in pairs])
        return torch.cat([crops for crops, _ in pairs]), torch.from_numpy(frames)


def check_members(networks: Sequence[Localizer] | Sequence[RegionClassifier]) -> None:
    """UserError unless all have the same classes in the same order."""
    assert networks and all(isinstance(each, nn.Module) for each in networks)
    first = networks[0].class_names
    for network in networks[1:]:
        if network.class_names != first:
            raise UserError(
                f"localizers that work together need the same classes: one has {len(first)} "
                f"({', '.join(first[:4])}, …), another {len(network.class_names)} "
                f"({', '.join(network.class_names[:4])}, …); train them on the same data"
            )
