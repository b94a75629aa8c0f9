"""Pack a folder of labelled images into tar shards, which are faster to copy and to read.

    python datasets/prepare_shards.py datasets/imagenet/train datasets/imagenet_shards/train
    python datasets/prepare_shards.py datasets/imagenet/val datasets/imagenet_shards/val

Takes class folders or ImageNet's flat val/. Files are stored unchanged, in random order, with their
class: NUMBER_NAME.jpg and NUMBER_NAME.cls, which holds a position in classes.json. Train with
data.root=datasets/imagenet_shards; webdataset reads the shards too.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from resdet.data.classification.folder import (
    FileImages,
    has_folders,
    loose_images,
    read_class_folders,
)
from resdet.data.classification.imagenet import read_flat_images
from resdet.data.classification.shards import CLASSES_FILE, find_shards
from resdet.errors import UserError
from resdet.files.findings import log_findings
from resdet.files.writing import open_atomic, write_text

PER_SHARD = 10_000
"""Images per shard: about a gigabyte of ImageNet."""


def read_source(source: Path, ground_truth: str | None) -> FileImages:
    """Class folders, or images in one folder with their ground truth."""
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give the folder that holds the class folders")
    if ground_truth is not None or (loose_images(source) and not has_folders(source)):
        return read_flat_images(source, ground_truth=ground_truth)
    return read_class_folders(source)


def write_shards(images: FileImages, out: Path, *, per_shard: int, seed: int) -> int:
    """Write the shards and classes.json, atomically; returns the number of shards."""
    out.mkdir(parents=True, exist_ok=True)
    if find_shards(out):
        raise UserError(f"{out}: already has shards; give an empty folder, or remove them first")
    write_text(out / CLASSES_FILE, json.dumps(images.class_names, ensure_ascii=False, indent=0))
    order = np.random.default_rng(seed).permutation(len(images.labels))
    count = -(-len(order) // per_shard)
    for shard in range(count):
        path = out / f"shard-{shard:05d}.tar"
        rows = order[shard * per_shard : (shard + 1) * per_shard]
        with (
            open_atomic(path, "wb") as raw,
            tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for place, row in enumerate(rows.tolist(), shard * per_shard):
                file = Path(images.name(row))
                # webdataset's keys end at the first dot
                key = f"{place:08d}_{file.stem.replace('.', '_')}"
                _add(tar, key + file.suffix.lower(), file.read_bytes())
                _add(tar, f"{key}.cls", str(images.labels[row]).encode())
        print(f"{path}: {len(rows)} images")
    return count


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of class folders, or ImageNet's flat val")
    parser.add_argument("out", type=Path, help="folder to fill")
    parser.add_argument(
        "--per-shard", type=int, default=PER_SHARD, help=f"images per shard; default {PER_SHARD}"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random order; default 0")
    parser.add_argument("--ground-truth", help="labels of a flat val; default: search next to it")
    args = parser.parse_args()
    if args.per_shard < 1:
        parser.error(f"--per-shard {args.per_shard}: give 1 or more")
    try:
        images = read_source(args.source, args.ground_truth)
        log_findings(images.findings)
        count = write_shards(images, args.out, per_shard=args.per_shard, seed=args.seed)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    total, classes = len(images.labels), len(images.class_names)
    print(f"{args.out}: {total} images of {classes} classes in {count} shard(s)")


if __name__ == "__main__":
    main()
