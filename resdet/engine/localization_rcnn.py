"""The R-CNN of localization as a task of the training loop: crops of proposals, one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from resdet.data.localization.regions import RegionBatch, collate_regions
from resdet.engine import pictures
from resdet.engine.localization_task import LocalizationTask
from resdet.factory.region_data import build_region_train_data, build_val_proposals
from resdet.files.proposals import Proposals
from resdet.inference.localization import RegionGuesser, StoredProposals
from resdet.models.region_classifier import RegionClassifier


class RegionTask(LocalizationTask):
    """See `resdet.engine.task.Task`.

    An update takes `train.batch_size` images, `model.rcnn.rois_per_image` crops of each.
    """

    model: RegionClassifier

    def prepare_data(self) -> None:
        crops = build_region_train_data(self.config, self.train_data)
        self.train_data, self.collate = crops, collate_regions
        digest, of_images = digest_of(crops.proposals), self.record.old_digest
        self.record.others["data.proposals.train"] = digest
        self.record.old_digest = lambda: f"{of_images()}, proposals {digest}"
        self.val_proposals: Proposals | None = None
        if self.val_data is not None:
            self.val_proposals = build_val_proposals(self.config, self.val_data)
            self.record.others["data.proposals.val"] = digest_of(self.val_proposals)

    def losses(
        self, wrapped: nn.Module, batch: RegionBatch, *, seed: int, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        right = (batch.positive.sum() / batch.valid.sum().clamp(min=1)).detach()
        return wrapped(batch), {"positive_percent": 100 * right}

    def image_names(self, micro_batches: Sequence[RegionBatch]) -> list[str]:
        return [name for batch in micro_batches for name in batch.image_names]

    def guesser(self, workers: int) -> RegionGuesser:
        """The network on the stored proposals of data.val."""
        assert self.val_proposals is not None
        limit = self.config.model.rcnn.num_proposals
        source = StoredProposals(self.val_proposals, limit, self.model.class_names)
        return RegionGuesser([self.model], source, workers=max(1, workers))

    def draw_batch(self, micro_batches: Sequence[RegionBatch], step: int, path: Path) -> None:
        """The first crops, positive or not."""
        batch = micro_batches[0]
        names = self.model.class_names
        shown = [
            (crop.permute(1, 2, 0).numpy(), names[label] if positive else f"no {names[label]}")
            for crop, label, positive in zip(
                batch.crops[: pictures.MAX_IMAGES].cpu(),
                batch.labels.tolist(),
                batch.positive.tolist(),
                strict=False,
            )
        ]
        pictures.draw_labelled(shown, path)

    def small_batch(self) -> tuple[RegionBatch, int]:
        # two images, as batch norm has no statistics of one pixel
        batch = self.collate([self.train_data[key] for key in self.plan.batch(0)[:2]])
        return batch, self.largest_area()

    def largest_area(self) -> int:
        return self.config.data.size**2 * self.config.model.rcnn.rois_per_image


def digest_of(proposals: Proposals) -> str:
    """A fingerprint of the files' counts and first scores, which are quick to read."""
    digest = hashlib.sha256()
    for file in proposals.files:
        digest.update(file.offsets.tobytes())
        digest.update(file.scores[:10_000].tobytes())
    return digest.hexdigest()[:16]
