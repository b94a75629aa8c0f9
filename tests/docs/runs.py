"""Runs of two steps in place of the trained ones that pages name, each trained once per session."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import resdet
from resdet import cli
from resdet.config.loading import load_any_config
from tests.docs import published
from tests.golden import tiny_backbone  # noqa: F401  mine.yaml names it

COMMON = ["train.batch_size=2", "train.accumulate=1", "log.every=1"]
SHORT = {
    "detection": [
        *COMMON,
        "data.augment.resize.short_edges=[64]",
        "data.augment.resize.max_size=96",
        "data.test_resize.short_edge=64",
        "data.test_resize.max_size=96",
        "data.workers=0",
        "eval.val_loss=false",
    ],
    "classification": [*COMMON, "eval.batch_size=4", "train.precise_bn_images=4"],
    "localization": [*COMMON, "data.workers=0", "data.size=64"],
}
"""What makes a training short, by task. A key that a command gives itself is left to it."""
SMALL_IMAGES = ["data.size=64", "data.test_size=64", "data.test_resize=72", "data.workers=0"]
SMALL_IMAGES += ["data.progressive=[]", "data.augment.short_edges=[64, 80]"]
"""The same for classifiers of other images than CIFAR's."""
KINDS = {
    **dict.fromkeys(("a", "b", "c", "slow"), "mine"),
    **dict.fromkeys(("rcnn_a", "rcnn_b"), "imagenet_loc_rcnn_r101"),
    **dict.fromkeys(("rpn_a", "rpn_b"), "imagenet_loc_rpn_r101"),
    **dict.fromkeys(("cls_a", "cls_b"), "imagenet_resnet101"),
}
"""What a run was trained with, where its name is not that of a config."""
OTHER_KINDS = [
    (r"^eval-cls ", dict.fromkeys(("mine", "a", "b"), "finetune")),
    (r"^convert runs/mine \S+\.th\b", {"mine": "padded"}),
    (r"^(convert|export|serve) ", {"mine": "resnet"}),
    (r"data\.split\.evaluate=test", {"mine": "split"}),
    (r"^eval-coco .*--submission ", {"mine": "coco"}),
    (r"^eval-voc .*--submission ", {"mine": "voc"}),
]
"""The same for the commands that match a pattern."""
MODEL_FINAL = "detectron2:COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x"
"""What a file of Detectron2 in the pages was trained as."""
PROPOSALS = "predict runs/imagenet_loc_rpn_r101 --proposals datasets/ILSVRC/proposals"
RECIPES = {
    "mine": ["train-det mine.yaml"],
    "resnet": ["train-det resnet.yaml"],
    "split": ["train-det mine.yaml data.val=null data.split.val=0.2 data.split.test=0.2"],
    "coco": [
        "train-det mine.yaml data.val=null data.train.images=datasets/coco/train2017 "
        "data.train.annotations=datasets/coco/annotations/instances_train2017.json"
    ],
    "voc": [
        "train-det mine.yaml data.val=null model.roi.mask_head=null "
        "data.train.images=datasets/VOCdevkit/VOC2007/JPEGImages data.train.format=voc "
        "data.train.annotations=datasets/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"
    ],
    "finetune": [
        "train-cls configs/finetune.yaml data.root=photos "
        "model.weights=torchvision:resnet18.IMAGENET1K_V1"
    ],
    "padded": ["train-cls configs/cifar10_resnet20.yaml model.backbone.pad=both"],
    "imagenet_loc_rcnn_r101": [
        f"{PROPOSALS}/train.npz",
        f"{PROPOSALS}/val.npz --set val",
        "train-det configs/imagenet_loc_rcnn_r101.yaml",
    ],
}
"""How a run is made where its config alone does not tell."""


class Runs:
    """Trains runs in a prepared folder when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Path] = {}

    def provide(self, command: str, folder: Path) -> None:
        """Put the runs and weights that a command reads into the folder, unless they are there."""
        if re.search(r"\bbest\.pt\b", command) and not (folder / "best.pt").exists():
            os.link(self.make("mine") / "best.pt", folder / "best.pt")
        exported = re.search(r"\bnuclei\.onnx\b", command)
        if exported and not command.startswith("export") and not (folder / "nuclei.onnx").exists():
            for path in self.exported():
                os.link(path, folder / path.name)
        if "model_final.pkl" in command and not (folder / "model_final.pkl").exists():
            published.fetch("", folder / "model_final.pkl", sha256=None, spec=MODEL_FINAL)
        for name in needed(command):
            kind, place = kind_of(name, command), folder / "runs" / name
            if kind not in (KINDS.get(name, name), name):
                shutil.rmtree(place, ignore_errors=True)
            # a recipe asks for runs in the folder where they are made
            if not place.exists() and (made := self.make(kind)) != place:
                copy_run(made, place)

    def exported(self) -> list[Path]:
        """The files of the demo's model for ONNX Runtime."""
        if not (self.folder / "nuclei.onnx").exists():
            self.make("demo_nuclei")
            self.run(["export", "runs/demo_nuclei", "nuclei.onnx", "--dynamic"])
        return [self.folder / f"nuclei.{end}" for end in ("onnx", "json", "py")]

    def make(self, kind: str) -> Path:
        """The run of a kind, a key of `RECIPES` or the name of a config."""
        if kind not in self.made:
            for command in RECIPES.get(kind) or [train_command(kind)]:
                self.provide(command, self.folder)
                shutil.rmtree(self.folder / "runs" / kind, ignore_errors=True)
                words = shlex.split(command)
                words += ["--run-dir", f"runs/{kind}"] if words[0].startswith("train") else []
                self.run(words)
            self.made[kind] = self.folder / "runs" / kind
        return self.made[kind]

    def run(self, words: list[str]) -> None:
        """Run a command of resdet in the prepared folder."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            code = cli.main(shorten(words))
        finally:
            os.chdir(before)
        assert code == 0, f"{' '.join(words)} ends with {code}"


def train_command(kind: str) -> str:
    config = f"configs/{kind}.yaml"
    is_classifier = load_any_config(config).task == "classification"
    return f"train-{'cls' if is_classifier else 'det'} {config}"


def kind_of(name: str, command: str) -> str:
    for pattern, kinds in OTHER_KINDS:
        if re.search(pattern, command) and name in kinds:
            return kinds[name]
    return KINDS.get(name, name)


def needed(command: str) -> list[str]:
    """Names of the runs that a command, or Python, reads."""
    read = re.sub(r"--out \S+", "", command)
    if command.startswith("train-") and "--resume" not in command:
        read = re.sub(r"--run-dir \S+", "", read)
    return list(dict.fromkeys(re.findall(r"\bruns/([\w-]+)", read)))


def copy_run(source: Path, target: Path) -> None:
    """With links to the checkpoints, which are large and are only ever replaced."""
    shutil.copytree(
        source,
        target,
        copy_function=lambda old, new: (
            os.link(old, new) if old.endswith(".pt") else shutil.copy2(old, new)
        ),
    )


def shorten(words: Sequence[str]) -> list[str]:
    """A command with `SHORT` behind its config, if it trains by one."""
    words = list(words)
    if not words[0].startswith("train-") or "--help-config" in words:
        return words
    config = next((word for word in words[1:] if word.endswith(".yaml")), None)
    if config is None:
        return words
    place = words.index(config) + 1
    return [*words[:place], *short_keys(config, words[place:]), *words[place:]]


def short_keys(config: str, given: Sequence[str]) -> list[str]:
    """The overrides that make training by a config short, without the keys that are given."""
    keys = {word.partition("=")[0] for word in given if "=" in word}
    read = load_any_config(config, [word for word in given if re.match(r"[a-z_.]+=", word)])
    short = list(SHORT[read.task])
    if not keys & {"train.epochs", "train.max_steps"}:
        short.append("train.max_steps=2" if read.train.epochs is None else "train.epochs=1")
    if read.task == "classification" and getattr(read.data, "format", None) not in CIFAR:
        short += SMALL_IMAGES
    if read.task == "localization" and read.model.type == "rpn":
        short.append("data.test_size=64")
    return [
        word
        for word in short
        if not any(
            f"{key}.".startswith(f"{word.partition('=')[0]}.")
            or f"{word.partition('=')[0]}.".startswith(f"{key}.")
            for key in keys
        )
    ]


CIFAR = ("cifar10", "cifar100")
_train = resdet.train


def train_shortly(config: str, overrides: Sequence[str] = (), **options: object) -> Path:
    """`resdet.train`, in Python that a page shows."""
    return _train(config, [*short_keys(config, overrides), *overrides], **options)
