"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their official Python layout, kept in memory."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resdet.config.find import own_path
from resdet.data.classification.samples import ClassificationBatch
from resdet.data.fingerprint import Fingerprint, as_words, hash_rows, hash_texts, mix
from resdet.files.findings import DataError, Finding
from resdet.files.pickles import PickleError, load_plain

logger = logging.getLogger("resdet")

Kind = Literal["cifar10", "cifar100"]
SIDE = 32
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
TRAIN_FILES = {"cifar10": [f"data_batch_{k}" for k in range(1, 6)], "cifar100": ["train"]}
TEST_FILE = {"cifar10": "test_batch", "cifar100": "test"}
NAMES = {
    "cifar10": ("batches.meta", b"label_names", b"labels"),
    "cifar100": ("meta", b"fine_label_names", b"fine_labels"),
}


@dataclass(eq=False)
class CifarData:
    """One split as uint8 tensors, so that a batch is a gather on the device.

    The last `holdout` training images are not part of the training split; they are "val".
    """

    kind: str
    images: Tensor
    """(N, 3, 32, 32) uint8 RGB."""
    labels: NDArray[np.int64]
    class_names: list[str]
    split: str
    """Of the archive: train or test."""
    first: int = 0
    """The number of the first image in the split of the archive."""
    broken: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._targets = torch.from_numpy(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> CifarData:
        """The same set with its images on `device`."""
        moved = copy.copy(self)
        moved.images, moved._targets = self.images.to(device), self._targets.to(device)
        return moved

    def name(self, index: int) -> str:
        return f"{self.kind} {self.split} image {self.first + index}"

    def read(self, index: int) -> NDArray[np.uint8]:
        """(32, 32, 3) uint8 RGB."""
        return np.ascontiguousarray(self.images[index].permute(1, 2, 0).cpu().numpy())

    def batch(self, keys: Sequence[tuple[int, int]]) -> ClassificationBatch:
        """The images of (epoch, index) keys, unchanged, on the device of the set."""
        device = self.images.device
        on_host = torch.tensor([index for _, index in keys], pin_memory=device.type == "cuda")
        rows = on_host.to(device, non_blocking=True)
        return ClassificationBatch(
            self.images[rows],
            self._targets[rows],
            list(keys),
            [self.name(index) for _, index in keys],
            [],
        )

    def fingerprint(self) -> Fingerprint:
        """Of classes, pixels and labels; its images have no names."""
        pixels = np.ascontiguousarray(self.images.cpu().numpy()).reshape(len(self), -1)
        ends = np.arange(len(self) + 1, dtype=np.int64) * (pixels.shape[1] // 8)
        return Fingerprint(
            classes=hash_texts(self.class_names),
            names=hash_rows(pixels.view(np.uint64).reshape(-1), ends),
            annotations=mix(as_words(self.labels)).view(np.int64),
            files=np.zeros(0, np.int64),
        )

    def digest(self) -> str:
        """The fingerprint in checkpoints of 0.1.0: of pixels and labels."""
        digest = hashlib.sha256(self.images.cpu().numpy().tobytes())
        digest.update(self.labels.tobytes())
        return f"{len(self)} images, {digest.hexdigest()[:16]}"

    def pixel_mean(self) -> Tensor:
        """Mean of each pixel over the split, (3, 32, 32) in 0..255."""
        return self.images.double().mean(0).float().cpu()


def load_cifar(kind: str, root: str | Path, *, train: bool, holdout: int = 0,
               held_out: bool = False, download: bool = False) -> CifarData:  # fmt: skip
    """A split of `kind` (cifar10, cifar100) below `root`.

    `train` without `held_out` drops the last `holdout` training images; with `held_out` it is only
    these. Raises DataError for files that are missing, damaged or of another kind.
    """
    folder = find_cifar(kind, root, download=download)
    meta_file, names_key, labels_key = NAMES[kind]
    names = [_text(name) for name in _read_pickle(folder / meta_file).get(names_key, [])]
    if not names:
        raise DataError(
            f"{folder / meta_file}: has no {names_key.decode()}; unpack the archive again"
        )
    files = TRAIN_FILES[kind] if train else [TEST_FILE[kind]]
    parts = [_read_batch(folder / file, labels_key, len(names)) for file in files]
    images = torch.from_numpy(np.concatenate([part[0] for part in parts]))
    labels = np.concatenate([part[1] for part in parts])
    if not train:
        return CifarData(kind, images, labels, names, split="test")
    kept = len(labels) - holdout
    if kept <= 0:
        raise DataError(
            f"data.holdout: {holdout} of {len(labels)} training images leaves none to train on"
        )
    if held_out:
        return CifarData(kind, images[kept:], labels[kept:], names, split="train", first=kept)
    return CifarData(kind, images[:kept].contiguous(), labels[:kept], names, split="train")


def find_cifar(kind: str, root: str | Path, *, download: bool = False) -> Path:
    """The folder of the batches: `root` or the official folder in it.

    With `download` a missing one is downloaded. Raises DataError otherwise.
    """
    root = own_path(root)
    for folder in (root, root / FOLDERS[kind]):
        if (folder / NAMES[kind][0]).is_file():
            return folder
    if download:
        return _download(kind, root)
    raise DataError(
        f"{root}: no {FOLDERS[kind]}/ in it; give data.root=FOLDER with the unpacked archive "
        f"({_source(kind)[0]}), or data.download=true to fetch it there"
    )


def is_cifar(root: str | Path) -> Kind | None:
    """cifar10 or cifar100 if `root` holds one, else None."""
    for kind in get_args(Kind):
        for folder in (Path(root), Path(root) / FOLDERS[kind]):
            if (folder / NAMES[kind][0]).is_file() and (folder / TEST_FILE[kind]).is_file():
                return kind
    return None


def _source(kind: str) -> tuple[str, str, str]:
    """Address, file name and md5 of the archive, as torchvision has them."""
    from torchvision import datasets

    owner: Any = datasets.CIFAR10 if kind == "cifar10" else datasets.CIFAR100
    return owner.url, owner.filename, owner.tgz_md5


def _download(kind: str, root: Path) -> Path:
    """Download, check and unpack the archive; DataError if that fails."""
    from torchvision.datasets.utils import download_and_extract_archive

    url, filename, md5 = _source(kind)
    logger.info("downloading %s to %s", url, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        download_and_extract_archive(url, str(root), filename=filename, md5=md5)
    # URLError is an OSError; a wrong checksum is a RuntimeError
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{root}: cannot download {kind} ({error}). Without a network, fetch {url} elsewhere "
            f"and unpack it into {root}"
        ) from error
    return root / FOLDERS[kind]


def _read_pickle(path: Path) -> dict[bytes, Any]:
    try:
        values = load_plain(path.read_bytes(), encoding="bytes")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; unpack the archive again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except PickleError as error:
        raise DataError(f"{path}: not a sound CIFAR file ({error}); unpack it again") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds a {type(values).__name__}, not CIFAR's mapping")
    return {key.encode() if isinstance(key, str) else key: value for key, value in values.items()}


def _read_batch(
    path: Path, labels_key: bytes, num_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(N, 3, 32, 32) uint8 and (N,) labels of one file."""
    values = _read_pickle(path)
    try:
        images = np.asarray(values[b"data"], dtype=np.uint8).reshape(-1, 3, SIDE, SIDE)
        labels = np.asarray(values[labels_key], dtype=np.int64)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: no images and labels of CIFAR ({error})") from error
    if len(images) != len(labels) or not len(labels):
        raise DataError(
            f"{path}: {len(images)} images and {len(labels)} labels; unpack the archive again"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise DataError(
            f"{path}: image {wrong[0]} has label {labels[wrong[0]]}, and there are {num_classes} "
            "classes"
        )
    return images, labels


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
