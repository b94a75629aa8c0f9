"""Data sets of labelled images from configs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from resdet.config.classification import ClassificationConfig, ClassificationSplitConfig
from resdet.config.find import own_path
from resdet.data.classification.cifar import FOLDERS, SIDE, CifarData, is_cifar, load_cifar
from resdet.data.classification.dataset import ClassificationDataset, open_images
from resdet.data.classification.policies import RandAugment, TrivialAugment
from resdet.data.classification.transforms import (
    CenterCrop,
    ClassificationTestTransform,
    ClassificationTrainTransform,
    Crop,
    RandomResizedCrop,
    ScaleJitter,
)
from resdet.data.plausibility import check_sets
from resdet.errors import UserError, naming
from resdet.interop.loaded import are_numbered, without_names

Data = CifarData | ClassificationDataset
Format = Literal["auto", "folder", "shards", "cifar10", "cifar100"]


def data_format(config: ClassificationConfig, root: str) -> Format:
    """`data.format`, where it is auto cifar10 or cifar100 if the folder holds one."""
    if config.data.format != "auto" or config.data.train.table is not None:
        return config.data.format
    kind = is_cifar(root)
    return "auto" if kind is None else kind


def split_root(config: ClassificationConfig, name: str) -> str:
    """The folder of data.train or data.val; UserError where neither it nor data.root is given."""
    section: ClassificationSplitConfig | None = getattr(config.data, name)
    if section is not None and section.root is not None:
        return str(own_path(section.root))
    if section is not None and section.table is not None:
        return str(own_path(config.data.root or Path(section.table).parent))
    if config.data.root is None:
        without = " (or data.val=null)" if name == "val" else ""
        raise UserError(
            f"data.{name}.root: no folder is given; give data.root=FOLDER with train/ and val/ in "
            f"it, or data.train.root and data.val.root{without}; datasets/README.md has the layouts"
        )
    root = str(own_path(config.data.root))
    if config.data.format in FOLDERS or (config.data.format == "auto" and is_cifar(root)):
        return root
    return str(Path(root) / name)


def _root_key(config: ClassificationConfig, name: str) -> str:
    """The key that gives the images of `split_root`."""
    section: ClassificationSplitConfig | None = getattr(config.data, name)
    if section is not None and section.table is not None:
        return f"data.{name}.table"
    has_own = section is not None and section.root is not None
    return f"data.{name}.root" if has_own else "data.root"


def build_classification_train_data(
    config: ClassificationConfig,
    *,
    strict: bool = False,
    decode_all: bool = False,
    left_out: NDArray[np.int64] | None = None,
) -> Data:
    """The training set; on disk with its transforms. `left_out`: see `ClassificationDataset`."""
    root = split_root(config, "train")
    kind = data_format(config, root)
    if kind == "cifar10" or kind == "cifar100":
        _check_cifar(config)
        with naming(_root_key(config, "train")):
            return _cifar(config, kind, root, train=True)
    _check_disk(config)
    with naming(_root_key(config, "train")):
        return open_images(
            root,
            transform=_train_transform(config),
            format=kind,
            ground_truth=config.data.train.ground_truth,
            table=config.data.train.table,
            classes=config.data.classes,
            seed=config.train.seed,
            strict=strict,
            decode_all=decode_all,
            max_pixels=config.data.max_pixels,
            left_out=left_out,
        )


def build_classification_val_data(
    config: ClassificationConfig,
    *,
    classes: Sequence[str],
    strict: bool = False,
    decode_all: bool = False,
    left_out: NDArray[np.int64] | None = None,
) -> Data:
    """The validation set at the test size.

    `classes` are the model's, in label order. UserError where data.val is null or has others.
    """
    if config.data.val is None:
        raise UserError("data.val: null; give data.val.root=FOLDER to evaluate on")
    root = split_root(config, "val")
    kind = data_format(config, root)
    if kind != "cifar10" and kind != "cifar100":
        with naming(_root_key(config, "val")):
            return open_images(
                root,
                transform=ClassificationTestTransform(
                    config.data.test_resize, config.data.test_size, config.data.interpolation
                ),
                format=kind,
                ground_truth=config.data.val.ground_truth,
                table=config.data.val.table,
                classes=config.data.classes,
                train_classes=classes,
                strict=strict,
                decode_all=decode_all,
                max_pixels=config.data.max_pixels,
                left_out=left_out,
            )
    with naming(_root_key(config, "val")):
        data = _cifar(config, kind, root, train=False)
    if list(data.class_names) != list(classes):
        if are_numbered(classes):
            raise UserError(f"{root}: {without_names(classes, data.class_names)}")
        raise UserError(
            f"{root}: its classes are {', '.join(data.class_names[:8])}, the model's "
            f"{', '.join(list(classes)[:8])}; give data.val.root with the model's classes"
        )
    return data


def check_val(train: Data, val: Data, *, strict: bool, contents: bool) -> None:
    """See `check_sets`; CIFAR's two sets are separate."""
    if isinstance(train, CifarData) or isinstance(val, CifarData):
        return
    count = len(train.class_names)
    check_sets(
        train.source.located(),
        val.source.located(),
        val.findings,
        what="images",
        classes=train.class_names,
        counts=(
            np.bincount(train.labels, minlength=count),
            np.bincount(val.labels, minlength=count),
        ),
        contents=contents,
        strict=strict,
    )


def _cifar(
    config: ClassificationConfig, kind: Literal["cifar10", "cifar100"], root: str, *, train: bool
) -> CifarData:
    holdout, download = config.data.holdout, config.data.download
    if train or holdout == 0:
        return load_cifar(kind, root, train=train, holdout=holdout, download=download)
    return load_cifar(kind, root, train=True, holdout=holdout, held_out=True, download=download)


def _check_cifar(config: ClassificationConfig) -> None:
    """UserError for what the batches on the device can't do."""
    data, augment = config.data, config.data.augment
    wrong: dict[str, tuple[Any, list[Any]]] = {
        "data.size": (data.size, [SIDE]),
        "data.test_size": (data.test_size, [SIDE]),
        "data.test_resize": (data.test_resize, [SIDE]),
        "data.progressive": (data.progressive, [[]]),
        "data.augment.crop": (augment.crop, ["pad", "none"]),
        "data.augment.policy": (augment.policy, ["none"]),
        "data.augment.color_jitter": (augment.color_jitter, [0]),
        "data.classes": (data.classes, [None]),
        "data.train.ground_truth": (data.train.ground_truth, [None]),
        "data.train.table": (data.train.table, [None]),
    }
    for key, (value, allowed) in wrong.items():
        if value not in allowed:
            raise UserError(
                f"{key}: {value}, and CIFAR's images, which stay on the device, take "
                f"{' or '.join(str(each) for each in allowed)}; start from configs/"
                "cifar10_resnet20.yaml"
            )


def _check_disk(config: ClassificationConfig) -> None:
    """UserError for what only CIFAR has."""
    for key, is_given in (
        ("data.holdout", config.data.holdout > 0),
        ("data.download", config.data.download),
    ):
        if is_given:
            raise UserError(
                f"{key}: only CIFAR has it, and {split_root(config, 'train')} is not CIFAR; if it "
                "should be, set data.format=cifar10 or cifar100"
            )


def _train_transform(config: ClassificationConfig) -> ClassificationTrainTransform:
    data, augment = config.data, config.data.augment
    policy: TrivialAugment | RandAugment | None = None
    if augment.policy == "trivial":
        policy = TrivialAugment()
    elif augment.policy == "rand":
        policy = RandAugment(augment.rand_ops, augment.rand_magnitude, augment.rand_std)
    crop: Crop
    if augment.crop == "random_resized":
        crop = RandomResizedCrop(
            (augment.scale[0], augment.scale[1]),
            (augment.ratio[0], augment.ratio[1]),
            data.interpolation,
        )
    elif augment.crop == "scale_jitter":
        edges = (augment.short_edges[0], augment.short_edges[1])
        crop = ScaleJitter(edges, data.size, data.interpolation)
    else:
        crop = CenterCrop(data.test_resize, data.test_size, data.interpolation)
    return ClassificationTrainTransform(
        data.size,
        crop=crop,
        # a padded crop, and its flip, are made on the device
        flip_prob=0.0 if augment.crop == "pad" else augment.flip_prob,
        policy=policy,
        color_jitter=augment.color_jitter,
        progressive=data.progressive,
        repeats=data.repeated_augmentation,
    )


def measured_mean(config: ClassificationConfig, data: Data) -> Tensor | None:
    """The mean over the training images that `model.pixel_mean` asks for, 0..255; else None."""
    wanted = config.model.pixel_mean
    if not isinstance(wanted, str):
        return None
    mean: Tensor = data.pixel_mean()
    return mean if wanted == "per_pixel" else mean.mean((1, 2))
