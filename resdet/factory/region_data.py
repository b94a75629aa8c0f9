"""Proposals and their crops from configs of localization."""

from __future__ import annotations

from collections.abc import Sequence

from resdet.config.localization import LocalizationConfig
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.localization.regions import RegionDataset
from resdet.files.proposals import Proposals
from resdet.models.region_classifier import fill_of


def build_region_train_data(config: LocalizationConfig, images: DetectionDataset) -> RegionDataset:
    """Random crops of the proposals of the training images.

    DataError where data.proposals.train does not fit the images.
    """
    train = config.data.proposals.train
    assert train is not None, "the schema asks for it"
    section, augment = config.model.rcnn, config.data.augment
    return RegionDataset(
        images,
        read_proposals(train, images),
        side=config.data.size,
        context=section.context,
        fill=fill_of(config.model.pixel_mean, config.model.channel_order),
        rois_per_image=section.rois_per_image,
        positive_fraction=section.positive_fraction,
        foreground_iou=section.foreground_iou,
        num_proposals=section.num_proposals,
        flip_prob=augment.flip_prob,
        color_jitter=augment.color_jitter,
        seed=config.train.seed,
    )


def build_val_proposals(config: LocalizationConfig, images: DetectionDataset) -> Proposals:
    """The proposals of the validation images, of `data.proposals.val` or else of `train`."""
    section = config.data.proposals
    files = section.val or section.train
    assert files is not None, "the schema asks for it"
    return read_proposals(files, images)


def read_proposals(files: str | Sequence[str], images: DetectionDataset) -> Proposals:
    """The proposals of a data set's images; DataError where the files do not fit them."""
    ids = images.image_ids.tolist()
    return Proposals(files, ids, images.sizes, images.class_names)
