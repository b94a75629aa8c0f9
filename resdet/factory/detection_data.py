"""Detection data sets from configs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from resdet.config.detection import AugmentConfig, DetectionConfig, SplitConfig
from resdet.config.fields import HeldOutConfig
from resdet.config.localization import LocalizationConfig
from resdet.errors import UserError

if TYPE_CHECKING:
    from resdet.data.detection.annotated import AnnotatedImages
    from resdet.data.detection.dataset import DetectionDataset
    from resdet.data.detection.split import Split
    from resdet.data.detection.table import AnnotationTable
    from resdet.data.detection.transforms import TestTransform, TrainTransform
    from resdet.data.resumed import Resumed


@dataclass
class DataSets:
    """The data of a run."""

    train: DetectionDataset
    val: DetectionDataset | None
    split: Split | None
    """The images of each, where `val` was held out of data.train."""
    test: DetectionDataset | None = None
    """What training never sees; it is checked alone."""

    def check(self, *, strict: bool, contents: bool) -> None:
        """See `check_sets`; sets of other classes are an error elsewhere."""
        from resdet.data.plausibility import check_sets

        for held_out in (self.val, self.test):
            if held_out is None or held_out.class_names != self.train.class_names:
                continue
            check_sets(
                self.train.untiled.located(),
                held_out.untiled.located(),
                held_out.findings,
                what="objects",
                classes=self.train.class_names,
                counts=(
                    self.train.untiled.objects_per_class,
                    held_out.untiled.objects_per_class,
                ),
                contents=contents,
                strict=strict,
            )


def build_data(
    config: DetectionConfig,
    *,
    resumed: Resumed | None = None,
    strict: bool = False,
    decode_all: bool = False,
) -> DataSets:
    """Training and validation data; `resumed` is what the run has chosen already."""
    section, split, left_out = config.data.val, None, resumed.left_out if resumed else {}
    check_part(config.data.split)
    train, val, test = _read(config, config.data.train, "data.train"), None, None
    if config.data.split is not None:
        stored = resumed.split if resumed else None
        parts, split = held_out_parts(train, config.data.split, stored)
        train, val = parts["train"], parts["val"]
        test = parts["test"] if split.test else None
    elif section is not None:
        val = _read(config, section, "data.val")
    train.left_out = left_out.get("data.train")
    if val is not None:
        val.left_out = left_out.get("data.val")
    data = DataSets(
        build_train_data(config, part=train, strict=strict, decode_all=decode_all),
        build_val_data(config, part=val, strict=strict, decode_all=decode_all),
        split,
        build_val_data(config, part=test, strict=strict, decode_all=decode_all) if test else None,
    )
    data.check(strict=strict, contents=decode_all)
    return data


def _tiles(
    config: DetectionConfig, data: DetectionDataset, *, empty: float = 1.0
) -> DetectionDataset:
    """The data, cut into tiles if the config asks for it; with the share `empty` of the tiles that
    have no objects."""
    from resdet.data.detection.tiles import cut_into_tiles

    tile = config.data.tile
    if tile is None:
        return data
    seed, least = config.train.seed, tile.min_visible
    return cut_into_tiles(data, tile.tiling, min_visible=least, empty=empty, seed=seed)


def build_train_data(
    config: DetectionConfig,
    *,
    part: AnnotatedImages | None = None,
    strict: bool = False,
    decode_all: bool = False,
) -> DetectionDataset:
    """The training set with its transforms.

    `part` is what `data.split` leaves of data.train, where it was read before. `strict` makes every
    finding in the files an error; `decode_all` reads every image first.
    """
    tile = config.data.tile
    transform = make_transform(config.data.augment, None if tile is None else tile.size)
    if part is None and config.data.split is not None:
        part = _held_out(config, None)["train"]
    read = part or _read(config, config.data.train, "data.train")
    dataset = _check(config, read, transform, config.data.keep_empty, strict, decode_all)
    if not dataset.table.has_annotations:
        raise UserError(
            f"{dataset.table.source}: it has no annotations to train on; give the annotations of "
            "the training images"
        )
    if not len(dataset.rows):
        raise dataset.no_objects()
    if tile is None:
        return dataset
    tiles = _tiles(config, dataset, empty=tile.empty)
    if not len(tiles.rows):
        raise UserError(
            f"data.tile: no tile of {tile.size} pixels shows {tile.min_visible:g} of an object; "
            "lower min_visible, or raise size"
        )
    return tiles


def make_transform(augment: AugmentConfig, tile: int | None = None) -> TrainTransform:
    """The transforms of training; of tiles with a side of `tile` pixels."""
    from resdet.data.detection.mixing import CopyPaste, Mosaic
    from resdet.data.detection.resizes import LargeScaleJitter, ShortEdge
    from resdet.data.detection.transforms import TrainTransform

    resize, mosaic, copy_paste = augment.resize, augment.mosaic, augment.copy_paste
    return TrainTransform(
        resize=ShortEdge(resize.short_edges, resize.max_size, tile)
        if resize.mode == "short_edge"
        else LargeScaleJitter(resize.lsj_size, (resize.lsj_scale[0], resize.lsj_scale[1])),
        flip_prob=augment.flip_prob,
        vertical_flip_prob=augment.vertical_flip_prob,
        crop=augment.crop,
        albumentations=augment.albumentations,
        mosaic=None
        if mosaic is None
        else Mosaic(mosaic.prob, (mosaic.scale[0], mosaic.scale[1]), mosaic.min_visible),
        copy_paste=None if copy_paste is None else CopyPaste(**copy_paste.model_dump()),
    )


def build_val_data(
    config: DetectionConfig,
    *,
    part: AnnotatedImages | None = None,
    stored: Split | None = None,
    masks: bool = True,
    strict: bool = False,
    decode_all: bool = False,
) -> DetectionDataset | None:
    """The validation set, images without objects included, at the test size; None without one.

    `part` is what `data.split` holds out of data.train, where it was read before, and `stored` the
    split of the run. Without `masks` the annotations need no outlines, even if the model has masks.
    """
    from resdet.data.detection.transforms import TestTransform

    section, resize = config.data.val, config.data.test_resize
    if part is None and config.data.split is not None:
        part = _held_out(config, stored)[config.data.split.evaluate]
    if part is None and section is not None:
        part = _read(config, section, "data.val")
    if part is None:
        return None
    transform = TestTransform(resize.short_edge, resize.max_size, resize.method)
    masks = masks or part.table.has_masks  # losses of masks are computed where they can be
    data = _check(config, part, transform, True, strict, decode_all, masks=masks)
    return _tiles(config, data)


def read_train_table(
    config: DetectionConfig | LocalizationConfig, stored: Split | None
) -> AnnotationTable:
    """The annotations of data.train without its images, of which none is looked at; `stored` is
    the split of the run, where it has one."""
    read = read_boxes(config, config.data.train, "data.train")
    if config.data.split is not None:
        read = held_out_parts(read, config.data.split, stored)[0]["train"]
    return read.table


def read_boxes(
    config: DetectionConfig | LocalizationConfig, files: SplitConfig, key: str
) -> AnnotatedImages:
    """The images at a key of the config, without outlines."""
    from resdet.data.detection.annotated import read_images

    return read_images(
        files.images,
        files.annotations,
        format=files.format,
        classes=config.data.classes,
        class_map=config.data.class_map,
        outlines=False,
        group_key=group_key(config.data.split),
        max_pixels=config.data.max_pixels,
        key=key,
    )


def held_out_parts(
    read: AnnotatedImages, section: HeldOutConfig, stored: Split | None
) -> tuple[dict[str, AnnotatedImages], Split]:
    """The images to train, to validate and to test on, by these names, and their ids.

    Args:
        read: all images; its findings stay with the first part.
        stored: the split that the run has already; None splits now.
    Raises:
        DataError: the stored split is of other images, groups or another section, or a part gets
            no image.
    """
    from resdet.data.detection.split import Split, hold_out, image_groups

    table = read.table
    groups, label = image_groups(table, section.group_key, section.group_pattern)
    asked = Split([], [], section.val, section.seed, [], section.test, label).settings()
    split = stored or hold_out(
        table, section.val, section.seed, test=section.test, groups=groups, grouped_by=label
    )
    if asked != split.settings():
        raise UserError(
            f"data.split: {asked}, but the run was split with {split.settings()}; leave the keys "
            "out"
        )
    parts = split.parts(table)
    if groups is not None:
        split.check_groups(table, groups)
    held_out = {part: replace(read, table=parts[part], findings=[]) for part in parts}
    return {**held_out, "train": replace(read, table=parts["train"])}, split


def group_key(section: HeldOutConfig | None) -> str | None:
    """The key of images that a split goes by."""
    return None if section is None else section.group_key


def check_part(section: HeldOutConfig | None) -> None:
    """UserError where training is asked to validate on the test part."""
    if section is not None and section.evaluate != "val":
        raise UserError(
            "data.split.evaluate: test is for evaluating a run, and training validates on val; "
            "leave it out"
        )


def _held_out(config: DetectionConfig, stored: Split | None) -> dict[str, AnnotatedImages]:
    assert config.data.split is not None
    read = _read(config, config.data.train, "data.train")
    return held_out_parts(read, config.data.split, stored)[0]


def _read(config: DetectionConfig, files: SplitConfig, key: str) -> AnnotatedImages:
    from resdet.data.detection.annotated import read_images

    return read_images(
        files.images,
        files.annotations,
        format=files.format,
        classes=config.data.classes,
        class_map=config.data.class_map,
        extras=config.data.extras,
        outlines=config.model.roi.mask_head is not None
        or (key == "data.train" and config.data.augment.copy_paste is not None),
        group_key=group_key(config.data.split),
        max_pixels=config.data.max_pixels,
        key=key,
    )


def _check(
    config: DetectionConfig,
    read: AnnotatedImages,
    transform: TrainTransform | TestTransform,
    keep_empty: bool,
    strict: bool,
    decode_all: bool,
    *,
    masks: bool = True,
) -> DetectionDataset:
    from resdet.data.detection.dataset import check_dataset

    return check_dataset(
        read,
        transform=transform,
        keep_empty=keep_empty,
        keep_difficult=config.data.keep_difficult,
        # masks are rasterised only where a head learns them
        mask_size=config.data.mask_size if masks and config.model.roi.mask_head else None,
        seed=config.train.seed,
        strict=strict,
        decode_all=decode_all,
        by_windows=config.data.tile is not None,
    )
