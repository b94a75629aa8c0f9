"""Detection data sets from configs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resdet.config.detection import DetectionConfig, SplitConfig
from resdet.errors import UserError

if TYPE_CHECKING:
    from resdet.data.detection.dataset import DetectionDataset
    from resdet.data.detection.transforms import TestTransform, TrainTransform


def build_train_data(
    config: DetectionConfig, *, strict: bool = False, decode_all: bool = False
) -> DetectionDataset:
    """The training set with its transforms.

    `strict` makes every finding in the files an error; `decode_all` reads every image first.
    """
    from resdet.data.detection.transforms import LargeScaleJitter, ShortEdge, TrainTransform

    augment, resize = config.data.augment, config.data.augment.resize
    transform = TrainTransform(
        resize=ShortEdge(resize.short_edges, resize.max_size)
        if resize.mode == "short_edge"
        else LargeScaleJitter(resize.lsj_size, (resize.lsj_scale[0], resize.lsj_scale[1])),
        flip_prob=augment.flip_prob,
        vertical_flip_prob=augment.vertical_flip_prob,
        crop=augment.crop,
        albumentations=augment.albumentations,
    )
    split, keep_empty = config.data.train, config.data.keep_empty
    dataset = _read(config, split, transform, keep_empty, strict, decode_all)
    if not dataset.table.has_annotations:
        raise UserError(
            f"{dataset.table.source}: it has no annotations to train on; give the annotations of "
            "the training images"
        )
    return dataset


def build_val_data(
    config: DetectionConfig, *, strict: bool = False, decode_all: bool = False
) -> DetectionDataset | None:
    """The validation set, images without objects included, at the test size; None without one."""
    from resdet.data.detection.transforms import TestTransform

    split, resize = config.data.val, config.data.test_resize
    if split is None:
        return None
    transform = TestTransform(resize.short_edge, resize.max_size, resize.method)
    return _read(config, split, transform, True, strict, decode_all)


def _read(
    config: DetectionConfig,
    split: SplitConfig,
    transform: TrainTransform | TestTransform,
    keep_empty: bool,
    strict: bool,
    decode_all: bool,
) -> DetectionDataset:
    from resdet.data.detection.dataset import read_dataset

    return read_dataset(
        split.images,
        split.annotations,
        format=split.format,
        extras=config.data.extras,
        transform=transform,
        classes=config.data.classes,
        keep_empty=keep_empty,
        # masks are rasterised only where a head learns them
        mask_size=config.data.mask_size if config.model.roi.mask_head else None,
        seed=config.train.seed,
        strict=strict,
        decode_all=decode_all,
    )
