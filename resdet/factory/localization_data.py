"""Localization data sets from configs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resdet.config.localization import LocalizationConfig
from resdet.errors import UserError

if TYPE_CHECKING:
    from resdet.data.detection.dataset import DetectionDataset
    from resdet.data.localization.transforms import Crop, LocalizationTransform


def build_localization_train_data(
    config: LocalizationConfig, *, strict: bool = False, decode_all: bool = False
) -> DetectionDataset:
    """The training set with its crops; images without objects are left out.

    `strict` makes every finding in the files an error; `decode_all` reads every image first.
    """
    return _read(config, "train", strict, decode_all)


def build_localization_val_data(
    config: LocalizationConfig, *, strict: bool = False, decode_all: bool = False
) -> DetectionDataset | None:
    """The validation set without images that have no object; None without one."""
    return None if config.data.val is None else _read(config, "val", strict, decode_all)


def _read(
    config: LocalizationConfig, name: str, strict: bool, decode_all: bool
) -> DetectionDataset:
    from resdet.data.detection.dataset import read_dataset
    from resdet.data.localization.dataset import image_labels

    split = config.data.train if name == "train" else config.data.val
    assert split is not None
    dataset = read_dataset(
        split.images,
        split.annotations,
        format=split.format,
        transform=make_transform(config),
        classes=config.data.classes,
        keep_empty=False,
        mask_size=None,
        seed=config.train.seed,
        strict=strict,
        decode_all=decode_all,
    )
    if not dataset.table.has_annotations:
        raise UserError(
            f"{dataset.table.source}: it has no annotations; give those of the images of "
            f"data.{name}"
        )
    image_labels(dataset)
    return dataset


def make_transform(config: LocalizationConfig) -> LocalizationTransform:
    """The random crops of training."""
    from resdet.data.classification.transforms import RandomResizedCrop
    from resdet.data.localization.transforms import (
        CenterWindow,
        JitteredCrop,
        LocalizationTransform,
        ResizedCrop,
    )

    data, augment = config.data, config.data.augment
    crop: Crop
    if augment.crop == "scale_jitter":
        crop = JitteredCrop((augment.short_edges[0], augment.short_edges[1]))
    elif augment.crop == "random_resized":
        scale, ratio = augment.scale, augment.ratio
        crop = ResizedCrop(RandomResizedCrop((scale[0], scale[1]), (ratio[0], ratio[1])))
    else:
        crop = CenterWindow(data.test_resize, data.test_size)
    return LocalizationTransform(
        data.size,
        crop=crop,
        flip_prob=augment.flip_prob,
        min_visible=augment.min_visible,
        color_jitter=augment.color_jitter,
    )
