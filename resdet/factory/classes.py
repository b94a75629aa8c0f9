"""Class names for `resdet.build`, which opens no image and works without the data.

They come from `data.classes`, else from the training data, else from `model.num_classes`. If
the data are absent, the names of the public data set that the config points at are used instead.
They are never a filter, and never override a number of classes in the config.
"""

import re
from pathlib import Path

from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
from resdet.config.localization import LocalizationConfig
from resdet.errors import UserError

COCO_FILE = re.compile(r"coco/annotations/instances_\w+20(14|17)\.json$")
VOC_LIST = re.compile(r"VOC20\d\d/(ImageSets/Main/\w+\.txt|Annotations/?)$")
DET_LIST = re.compile(r"ILSVRC/(ImageSets|Annotations)/DET/.")


def detection_classes(
    config: DetectionConfig | LocalizationConfig,
) -> tuple[list[str], list[int]]:
    """Class names and original category ids; UserError where they are unknown."""
    from resdet.data.detection.class_map import map_names
    from resdet.data.detection.readers import read_classes

    count = config.model.num_classes
    annotations = config.data.train.annotations
    first = Path(annotations if isinstance(annotations, str) else annotations[0])
    if first.exists():
        given = config.data.train.images
        images = given if isinstance(given, str) else given[0]
        names, ids = read_classes(
            str(first),
            config.data.train.format,
            config.data.classes,
            images if Path(images).is_dir() else None,
            config.data.class_map,
        )
        # a count that contradicts the file means other classes, which have no names here
        if count in (None, len(names)):
            return names, ids
    if config.data.classes is not None:
        return config.data.classes, list(range(1, len(config.data.classes) + 1))
    public = [] if first.exists() else _public_categories(first.as_posix())
    ids, names = [number for number, _ in public], [name for _, name in public]
    names, ids, _ = map_names(names, ids, config.data.class_map or {})
    if names and count in (None, len(names)):
        return names, ids
    if count is None:
        raise UserError(
            f"model.num_classes: null means from the data, but {first} is not there; "
            "give model.num_classes, data.classes or data.train.annotations"
        )
    return _numbered(count), list(range(1, count + 1))


def _public_categories(annotations: str) -> list[tuple[int, str]]:
    """Ids and names of COCO, PASCAL VOC or ImageNet DET where a path names one; else none."""
    from resdet.data.detection.readers.imagenet_det import det_synsets
    from resdet.data.detection.readers.voc import VOC_CLASSES
    from resdet.interop.coco_classes import COCO_CATEGORIES

    if COCO_FILE.search(annotations):
        return list(COCO_CATEGORIES)
    if VOC_LIST.search(annotations):
        return list(enumerate(VOC_CLASSES, start=1))
    if DET_LIST.search(annotations):
        return [(synset.number, synset.name) for synset in det_synsets()]
    return []


def classification_classes(config: ClassificationConfig) -> list[str]:
    """Class names by label; UserError where they are unknown."""
    from resdet.factory.classification_data import build_classification_train_data

    data, count = config.data, config.model.num_classes
    if data.classes is not None:
        return data.classes
    root = data.train.root or data.root
    is_present = data.train.table is not None or (root is not None and Path(root).is_dir())
    if count is None and is_present:
        return list(build_classification_train_data(config).class_names)
    names = _public_names(config, root) if root is not None and not is_present else []
    if names and count in (None, len(names)):
        return names
    if count is None:
        raise UserError(
            "model.num_classes: null means from the data, but there is no data.train.root; give "
            "model.num_classes, data.classes or the folder"
        )
    return _numbered(count)


def _public_names(config: ClassificationConfig, root: str) -> list[str]:
    """The classes of CIFAR-10, or of ImageNet where its folder is named; else none."""
    from resdet.interop.cifar import CIFAR10
    from resdet.interop.torchvision.classifiers import imagenet_wnids

    if config.data.format == "cifar10":
        return list(CIFAR10)
    return imagenet_wnids() if "imagenet" in Path(root).parts else []


def _numbered(count: int) -> list[str]:
    return [f"class {number}" for number in range(1, count + 1)]
