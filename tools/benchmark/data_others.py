"""How other programs load training data, each as its own documentation and references do it.

Every function returns a step that makes one batch, and a note for the table. They take turns over
the images in the order of the annotation file, or in that of `shuffled` for classification.
"""

from __future__ import annotations

import importlib
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from tools.benchmark.turns import Step

SHORT_EDGES = (640, 672, 704, 736, 768, 800)
"""Of the multi-scale work, in pixels: Detectron2's for training on COCO."""
MAX_SIZE = 1333
LSJ_SIZE = 1024
LSJ_SCALE = (0.1, 2.0)
FLIP_PROB = 0.5
CROP_SIDE = 224
"""Of the classification work, in pixels."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of pixels in 0..1: torchvision's references."""


def one_core(seed: int = 0) -> None:
    """What a loader's worker sets, and a seed for those that draw from global generators."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def batches(count: int, size: int) -> Iterator[list[int]]:
    """Endless batches of `size` of the indices 0..count-1, in order and around."""
    around = itertools.cycle(range(count))
    while True:
        yield list(itertools.islice(around, size))


def shuffled(count: int) -> list[int]:
    """A fixed order of `count` images, so that classes and sizes mix alike for all."""
    return np.random.default_rng(0).permutation(count).tolist()


def torchvision_detection(
    images: str, annotations: str, mode: str, batch_size: int, resize: bool = True
) -> tuple[Step, str]:
    """The steps of torchvision's references/detection with its v2 transforms.

    Without `resize`, multi-scale ends where the references' worker does: images in their own size,
    as the resize of image and masks is part of torchvision's models (GeneralizedRCNNTransform).
    """
    from torchvision import datasets
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.transforms import v2

    one_core()
    transforms: list[Any] = []
    if mode == "lsj":
        transforms += [
            v2.ScaleJitter((LSJ_SIZE, LSJ_SIZE), LSJ_SCALE, antialias=True),
            _fixed_size_crop(LSJ_SIZE),
        ]
    transforms += [
        v2.RandomHorizontalFlip(FLIP_PROB),
        v2.PILToTensor(),
        v2.ToDtype(torch.float, scale=True),
        v2.ConvertBoundingBoxFormat("XYXY"),
        v2.SanitizeBoundingBoxes(),
        v2.ToPureTensor(),
    ]
    dataset = datasets.wrap_dataset_for_transforms_v2(
        datasets.CocoDetection(images, annotations, transforms=v2.Compose(transforms)),
        target_keys=["boxes", "labels", "image_id", "masks"],
    )
    to_model = GeneralizedRCNNTransform(SHORT_EDGES, MAX_SIZE, list(MEAN), list(STD))
    to_model.train()
    keys = batches(len(dataset), batch_size)

    def step() -> Any:
        pixels, targets = zip(*[dataset[index] for index in next(keys)], strict=True)
        if mode == "lsj":
            return torch.stack([to_model.normalize(each) for each in pixels]), targets
        return to_model(list(pixels), list(targets)) if resize else (pixels, targets)

    return step, "dense masks" if resize else "dense masks, before its model's resize"


def _fixed_size_crop(side: int) -> Any:
    """The references' FixedSizeCrop, for v2: a random window, padded right and bottom."""
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional

    class FixedSizeCrop(v2.Transform):
        def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
            height, width = v2.query_size(flat_inputs)
            height, width = int(height), int(width)
            top = int(torch.randint(0, max(height - side, 0) + 1, ()))
            left = int(torch.randint(0, max(width - side, 0) + 1, ()))
            return {
                "window": (top, left, min(height, side), min(width, side)),
                "padding": [0, 0, max(side - width, 0), max(side - height, 0)],
            }

        def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
            cropped = self._call_kernel(functional.crop, inpt, *params["window"])
            return self._call_kernel(functional.pad, cropped, padding=params["padding"], fill=0)

    return FixedSizeCrop()


def detectron2_detection(
    images: str, annotations: str, mode: str, batch_size: int
) -> tuple[Step, str]:
    """Detectron2's DatasetMapper, polygons, with its augmentations for COCO.

    It makes no mask targets and pads no batch: its model does.
    """
    one_core()
    data = importlib.import_module("detectron2.data")
    T = importlib.import_module("detectron2.data.transforms")
    if mode == "lsj":
        augmentations: list[Any] = [
            T.ResizeScale(*LSJ_SCALE, LSJ_SIZE, LSJ_SIZE),
            T.FixedSizeCrop((LSJ_SIZE, LSJ_SIZE)),
        ]
    else:
        augmentations = [T.ResizeShortestEdge(SHORT_EDGES, MAX_SIZE, "choice")]
    mapper = data.DatasetMapper(
        is_train=True,
        augmentations=[*augmentations, T.RandomFlip(FLIP_PROB)],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="polygon",
        recompute_boxes=mode == "lsj",
    )
    records = data.datasets.load_coco_json(annotations, images)
    keys = batches(len(records), batch_size)
    return lambda: [mapper(records[index]) for index in next(keys)], "polygons, no mask targets"


def albumentations_detection(
    images: str, annotations: str, mode: str, batch_size: int
) -> tuple[Step, str]:
    """albumentations on one dense mask per object, read and turned into tensors as it documents.

    Its multi-scale resize has no limit for the long side.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A
    from albumentations.pytorch import ToTensorV2
    from pycocotools.coco import COCO

    one_core()
    if mode == "lsj":
        low, high = (round(LSJ_SIZE * scale) for scale in LSJ_SCALE)
        geometry: list[Any] = [
            A.LongestMaxSize(list(range(low, high + 1))),
            A.PadIfNeeded(LSJ_SIZE, LSJ_SIZE, position="top_left", fill=128),
            A.RandomCrop(LSJ_SIZE, LSJ_SIZE),
        ]
    else:
        geometry = [A.SmallestMaxSize(list(SHORT_EDGES))]
    compose = A.Compose(
        [*geometry, A.HorizontalFlip(p=FLIP_PROB), ToTensorV2()],
        bbox_params=A.BboxParams(
            "coco", label_fields=["labels", "rows"], clip=True, filter_invalid_bboxes=True
        ),
        seed=0,
    )
    coco = COCO(annotations)
    ids = list(coco.imgs)
    keys = batches(len(ids), batch_size)

    def sample(index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        path = Path(images) / coco.imgs[ids[index]]["file_name"]
        file = cv2.imread(str(path))
        assert file is not None, path
        pixels = cv2.cvtColor(file, cv2.COLOR_BGR2RGB)
        objects = coco.loadAnns(coco.getAnnIds(ids[index]))
        found = compose(
            image=pixels,
            masks=[coco.annToMask(each) for each in objects],
            bboxes=[each["bbox"] for each in objects],
            labels=[each["category_id"] for each in objects],
            rows=list(range(len(objects))),
        )
        # boxes that leave the picture are dropped, and their masks are not
        rows = [int(row) for row in found["rows"]]
        masks = [torch.as_tensor(found["masks"][row]) for row in rows]
        return (
            found["image"],
            torch.as_tensor(np.asarray(found["bboxes"], np.float32)).reshape(-1, 4),
            torch.as_tensor([int(label) for label in found["labels"]]),
            torch.stack(masks) if masks else torch.zeros((0, *found["image"].shape[1:])),
        )

    return lambda: [sample(index) for index in next(keys)], "dense masks"


def torchvision_classification(root: str, batch_size: int, normalize: bool) -> tuple[Step, str]:
    """The steps of torchvision's references/classification with Pillow's images."""
    from torch.utils.data import default_collate
    from torchvision import datasets, transforms

    one_core()
    steps: list[Any] = [
        transforms.RandomResizedCrop(CROP_SIDE, antialias=True),
        transforms.RandomHorizontalFlip(FLIP_PROB),
        transforms.PILToTensor(),
    ]
    if normalize:
        steps += [transforms.ConvertImageDtype(torch.float), transforms.Normalize(MEAN, STD)]
    dataset = datasets.ImageFolder(root, transforms.Compose(steps))
    order = shuffled(len(dataset))
    keys = batches(len(order), batch_size)
    return lambda: default_collate([dataset[order[index]] for index in next(keys)]), ""
