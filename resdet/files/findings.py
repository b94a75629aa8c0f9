"""Problems in a user's data, in words: the file, the item, the problem and the remedy."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resdet.errors import UserError, printable

logger = logging.getLogger("resdet")

SHOWN = 3
"""Items of one kind of finding that the log names; the rest is counted."""

LISTED = 50
"""Findings that a strict error lists; the rest is counted."""


DROPPED = "it is left out; fix or remove it"
"""The remedy for an item that can't be used."""


class DataError(UserError):
    """A mistake in the user's data: the text names the file, the item and the remedy."""


@dataclass(frozen=True)
class Finding:
    """One thing that was dropped or repaired while data were read."""

    file: str
    item: str
    """The image or annotation, by the id its file gives it."""
    what: str
    remedy: str
    """What was done about it, and what the user can do."""

    def __str__(self) -> str:
        return printable(f"{self.file}: {self.item} {self.what}; {self.remedy}")


def log_findings(findings: Sequence[Finding]) -> None:
    """A warning per line of `summarize_findings`."""
    for line in summarize_findings(findings):
        logger.warning(line)


def summarize_findings(findings: Sequence[Finding]) -> list[str]:
    """One line per kind of finding of a file: how many, and the first few by name."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.file, finding.remedy), []).append(finding)
    lines = []
    for (file, remedy), group in groups.items():
        first = ", ".join(f"{f.item} {f.what}" for f in group[:SHOWN])
        more = f" and {len(group) - SHOWN} more" if len(group) > SHOWN else ""
        lines.append(printable(f"{file}: {len(group)}× {first}{more}; {remedy}"))
    return lines


def strict_error(findings: Sequence[Finding]) -> DataError:
    """The error of findings that can't be passed over; it lists the first `LISTED` of them."""
    lines = [f"{len(findings)} finding(s) in the data have to be fixed first:"]
    lines += [f"  {finding}" for finding in findings[:LISTED]]
    if len(findings) > LISTED:
        lines.append(f"  and {len(findings) - LISTED} more")
    return DataError(*lines)


COCO_LAYOUT = """\
COCO is expected as
  datasets/coco/train2017/               118,287 JPEG files
  datasets/coco/val2017/                 5,000 JPEG files
  datasets/coco/annotations/instances_train2017.json
  datasets/coco/annotations/instances_val2017.json
To get it: train2017.zip, val2017.zip and annotations_trainval2017.zip of cocodataset.org, unpacked
in datasets/coco; datasets/README.md has the commands."""

VOC_LAYOUT = """\
PASCAL VOC (format: voc) is expected as VOCdevkit unpacks
  datasets/VOCdevkit/VOC2007/JPEGImages/            images: this folder
  datasets/VOCdevkit/VOC2007/Annotations/           one XML file per image
  datasets/VOCdevkit/VOC2007/ImageSets/Main/        annotations: trainval.txt or test.txt in it
and VOC2012 beside VOC2007; datasets/README.md has the commands."""

ILSVRC_LAYOUT = """\
ImageNet's detection and localization sets (format: imagenet_det, imagenet_loc) are expected as
  datasets/ILSVRC/Data/{DET,CLS-LOC}/{train,val}/           images: one of these folders
  datasets/ILSVRC/Annotations/{DET,CLS-LOC}/{train,val}/    annotations of CLS-LOC: one of these
  datasets/ILSVRC/ImageSets/DET/                            annotations of DET: val.txt in it
To get them: image-net.org or Kaggle; datasets/README.md has the details."""

LAYOUTS = {"coco": COCO_LAYOUT, "vocdevkit": VOC_LAYOUT, "ilsvrc": ILSVRC_LAYOUT}
"""By what paths contain, in lower case."""

OWN_PATHS = """\
Your own data need no layout, and their format is recognised: give paths from the working folder, as
  data.train.images=FOLDER data.train.annotations=FILE_OR_FOLDER
  data.val.images=FOLDER data.val.annotations=FILE_OR_FOLDER
datasets/README.md says how to get the data that the shipped configs name."""


def missing_data_error(missing: Mapping[str, Sequence[str]]) -> DataError:
    """Names the files or folders that are missing by the keys that give them, the layout expected
    and how to get it."""
    named = [f"{path} ({key})" for key, paths in missing.items() for path in paths]
    text = "\n".join(named).lower()
    layouts = [layout for name, layout in LAYOUTS.items() if name in text]
    lines = [line for block in (*layouts, OWN_PATHS) for line in block.splitlines()]
    return DataError(f"no such file or folder: {', '.join(dict.fromkeys(named))}", *lines)


CLASS_LAYOUT = """\
Images to classify are expected as
  ROOT/train/CLASS/*.jpg    one folder per class, named as the class
  ROOT/val/CLASS/*.jpg      the same classes, or some of them
given by data.root=ROOT, or each by itself: data.train.root=FOLDER data.val.root=FOLDER. Instead of
class folders there can be tar shards, which datasets/prepare_shards.py makes."""

IMAGENET_LAYOUT = """\
ImageNet is expected as
  datasets/imagenet/train/WNID/*.JPEG                   1,281,167 files in 1,000 folders
  datasets/imagenet/val/WNID/*.JPEG                     50,000 files, or all of them in val/ with
  datasets/imagenet/ILSVRC2012_devkit_t12/data/         their ground truth and meta.mat
To get it: ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz of
image-net.org, which asks for an account; datasets/README.md has the commands."""


def missing_images_error(root: str | Path, problem: str | None = None) -> DataError:
    """As `missing_data_error`, for images to classify: `root` is no folder, or `problem` says what
    it lacks."""
    layouts = [CLASS_LAYOUT]
    if problem is None and "imagenet" in str(root).lower():
        layouts.append(IMAGENET_LAYOUT)
    first = f"no such folder: {root}" if problem is None else f"{root}: {problem}"
    return DataError(first, *(line for block in layouts for line in block.splitlines()))
