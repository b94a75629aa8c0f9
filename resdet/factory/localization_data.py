"""Localization data sets from configs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resdet.config.localization import LocalizationConfig
from resdet.errors import UserError
from resdet.factory.detection_data import DataSets, check_part, held_out_parts, read_boxes

if TYPE_CHECKING:
    from resdet.data.detection.annotated import AnnotatedImages
    from resdet.data.detection.dataset import DetectionDataset
    from resdet.data.detection.split import Split
    from resdet.data.localization.transforms import Crop, LocalizationTransform
    from resdet.data.resumed import Resumed


def build_localization_data(
    config: LocalizationConfig,
    *,
    resumed: Resumed | None = None,
    strict: bool = False,
    decode_all: bool = False,
) -> DataSets:
    """Training and validation data without images that have no object.

    `resumed` is what the run has chosen already. `strict` makes every finding in the files an
    error; `decode_all` reads every image first.
    """
    check_part(config.data.split)
    files, split, test = read_boxes(config, config.data.train, "data.train"), None, None
    val = None if config.data.val is None else read_boxes(config, config.data.val, "data.val")
    if config.data.split is not None:
        stored = resumed.split if resumed else None
        parts, split = held_out_parts(files, config.data.split, stored)
        files, val = parts["train"], parts["val"]
        test = parts["test"] if split.test else None
    left_out = resumed.left_out if resumed else {}
    files.left_out = left_out.get("data.train")
    if val is not None:
        val.left_out = left_out.get("data.val")
    train_data = _check(config, files, strict, decode_all)
    val_data = None if val is None else _check(config, val, strict, decode_all, is_val=True)
    test_data = None if test is None else _check(config, test, strict, decode_all, is_val=True)
    data = DataSets(train_data, val_data, split, test_data)
    data.check(strict=strict, contents=decode_all)
    return data


def build_localization_val_data(
    config: LocalizationConfig,
    *,
    stored: Split | None = None,
    strict: bool = False,
    unannotated: bool = False,
) -> DetectionDataset | None:
    """The validation set alone, or what `data.split` holds out; None without one.

    `unannotated` accepts test images, whose files have no annotations: all of them are in the set.
    """
    if config.data.split is not None:
        read = read_boxes(config, config.data.train, "data.train")
        parts, _ = held_out_parts(read, config.data.split, stored)
        return _check(config, parts[config.data.split.evaluate], strict, is_val=True)
    if config.data.val is None:
        return None
    read = read_boxes(config, config.data.val, "data.val")
    return _check(config, read, strict, is_val=True, unannotated=unannotated)


def build_localization_train_data(
    config: LocalizationConfig, *, stored: Split | None = None, strict: bool = False
) -> DetectionDataset:
    """The training set alone, or what `data.split` leaves of it."""
    files = read_boxes(config, config.data.train, "data.train")
    if config.data.split is not None:
        files = held_out_parts(files, config.data.split, stored)[0]["train"]
    return _check(config, files, strict)


def _check(
    config: LocalizationConfig,
    read: AnnotatedImages,
    strict: bool,
    decode_all: bool = False,
    *,
    is_val: bool = False,
    unannotated: bool = False,
) -> DetectionDataset:
    from resdet.data.detection.dataset import check_dataset
    from resdet.data.localization.dataset import image_labels

    if not read.table.has_annotations and not unannotated:
        raise UserError(f"{read.table.source}: it has no annotations; give those of the images")
    dataset = check_dataset(
        read,
        transform=make_transform(config),
        keep_empty=unannotated and not read.table.has_annotations,
        # an image whose only object is difficult is one to localize all the same
        keep_difficult=is_val or config.data.keep_difficult,
        mask_size=None,
        seed=config.train.seed,
        strict=strict,
        decode_all=decode_all,
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
