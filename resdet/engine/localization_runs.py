"""Trained localizers on data.val: RPNs, R-CNNs with their proposals, and ensembles of either."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from resdet import hardware
from resdet.config.localization import KEYS_OF_TYPE, LocalizationConfig
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.detection.split import Split
from resdet.engine.broken import judge
from resdet.engine.distributed import Processes
from resdet.engine.evaluate_detection import check_classes, val_data_of_run
from resdet.engine.evaluate_localization import Wanted, evaluate_localizer, make_loc_evaluator
from resdet.engine.validation import Validation
from resdet.errors import UserError, command_line
from resdet.factory.localization import build_trained_localizer
from resdet.factory.localization_data import build_localization_val_data
from resdet.factory.region_data import build_val_proposals, read_proposals
from resdet.inference.flips import warn_of_test_flip
from resdet.inference.localization import (
    Guesser,
    ProposalSource,
    RegionGuesser,
    RPNGuesser,
    RPNProposals,
    StoredProposals,
)
from resdet.interop.loaded import LoadedWeights
from resdet.interop.weights import read_weights
from resdet.models.localizer import Localizer
from resdet.models.predict import precision_of
from resdet.models.region_classifier import AnyLocalizer, RegionClassifier

logger = logging.getLogger("resdet")

Ask = Callable[[DetectionDataset, list[str]], Wanted]
"""From the data and the networks' class names to the classes that are asked for in each image."""
M = TypeVar("M", Localizer, RegionClassifier)


@hardware.settings_restored()
def evaluate_localization_run(
    paths: Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    proposals: Sequence[str | Path] = (),
    ask: Ask | None = None,
    device: str | None = None,
    precision: str | None = None,
    strict: bool = False,
) -> tuple[LocalizationConfig, Validation]:
    """Evaluate run folders (best.pt, else last.pt) or checkpoints on `data.val` of the first one;
    several are an ensemble.

    `overrides` go on top of each run's own config, such as test.views=dense. `proposals` of R-CNNs
    are RPN runs, which then propose as their config says, or proposals files; without them those of
    the config are used. Of an R-CNN's overrides those that only an RPN has are the RPN's. `ask`
    gives the classes; None is the true class of each image. `precision` is as in `resdet.load`.
    Writes nothing. Raises UserError for runs that do not belong together.
    """
    target = hardware.choose_device(device, 0)
    of_rpn, of_others = split_overrides(overrides)
    is_rpn, networks = _load(paths, overrides, of_others, target, precision)
    if is_rpn and proposals:
        raise _needless(paths[0], proposals[0])
    config = networks[0].config
    warn_of_test_flip(config, networks[0].class_names)
    hardware.set_threads(config.train.threads, None)

    def build(stored: Split | None) -> DetectionDataset | None:
        return build_localization_val_data(
            config, stored=stored, strict=strict, unannotated=ask is not None
        )

    dataset, source = val_data_of_run(config, paths[0], str(paths[0]), build)
    check_classes(dataset, networks[0].class_names, source, fewer=True)
    workers = hardware.default_workers(config.data.workers, 1)
    guesser: Guesser
    if is_rpn:
        guesser = RPNGuesser(_only(networks, Localizer, paths))
    else:
        members = _only(networks, RegionClassifier, paths)
        found = _proposals(members[0], dataset, proposals, of_rpn, target, precision)
        guesser = RegionGuesser(members, found, workers=max(1, workers))
    chosen = precision_of(networks[0], precision)
    logger.info(
        f"{', '.join(map(str, paths))}: evaluating on {len(dataset)} images of {source}, precision "
        f"{chosen.name} ({chosen.reason})"
    )
    validation = evaluate_localizer(
        guesser,
        dataset,
        make_loc_evaluator(config, dataset),
        processes=Processes(0, 1, 1, target),
        precision=chosen,
        batch_size=config.eval.batch_size,
        workers=workers,
        wanted=None if ask is None else ask(dataset, guesser.class_names),
    )
    return config, judge(validation, len(dataset), config, paths, strict)


def _needless(rpn: str | Path, proposals: str | Path) -> UserError:
    """The error of --proposals for an RPN, which may be those of an R-CNN the wrong way round."""
    other = None
    if Path(proposals).suffix != ".npz":
        with suppress(UserError):
            other = _type_of(read_weights(str(proposals)))
    if other == "rcnn":
        return UserError(
            f"{rpn} is an RPN and --proposals {proposals} an R-CNN; swap them: RUN is the R-CNN, "
            "--proposals the RPN"
        )
    return UserError(f"--proposals is for R-CNNs, and {rpn} is an RPN; leave it out")


def _type_of(weights: LoadedWeights) -> str | None:
    """rpn or rcnn, of a localizer."""
    kind: str | None = ((weights.config or {}).get("model") or {}).get("type")
    return kind if weights.kind == "localizer" else None


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """key=value texts: those that only an RPN takes, and the others."""
    own = [
        text
        for text in overrides
        if any(
            f"{text.partition('=')[0].strip()}.".startswith(f"{key}.")
            for key in KEYS_OF_TYPE["rpn"]
        )
    ]
    return own, [text for text in overrides if text not in own]


def _load(
    paths: Sequence[str | Path],
    overrides: Sequence[str],
    of_others: Sequence[str],
    device: torch.device,
    precision: str | None,
) -> tuple[bool, list[AnyLocalizer]]:
    """Whether the first run is an RPN, and all networks on the device."""
    networks: list[AnyLocalizer] = []
    for path in paths:
        weights = read_weights(str(path))
        own = of_others if _type_of(weights) == "rcnn" else overrides
        networks.append(_placed(build_trained_localizer(weights, own), device, precision))
    return isinstance(networks[0], Localizer), networks


def _placed(model: AnyLocalizer, device: torch.device, precision: str | None) -> AnyLocalizer:
    model.to(device)
    model.precision = precision
    model.place(device, precision_of(model, precision).parameters)
    return model


def _only(networks: Sequence[AnyLocalizer], kind: type[M], paths: Sequence[str | Path]) -> list[M]:
    """The networks, all of one type."""
    members = [network for network in networks if isinstance(network, kind)]
    if len(members) < len(networks):
        other = next(
            path
            for path, network in zip(paths, networks, strict=True)
            if not isinstance(network, kind)
        )
        raise UserError(
            f"{other}: an ensemble has members of one model.type; give RPNs, or R-CNNs with the "
            "RPNs as --proposals"
        )
    return members


def _proposals(
    network: RegionClassifier,
    dataset: DetectionDataset,
    given: Sequence[str | Path],
    of_rpn: Sequence[str],
    device: torch.device,
    precision: str | None,
) -> ProposalSource:
    """Where the proposals come from: RPN runs, files, or the files of the config."""
    config, limit = network.config, network.config.model.rcnn.num_proposals
    files = [str(path) for path in given if Path(path).suffix == ".npz"]
    if files and len(files) < len(given):
        raise UserError(
            f"--proposals: {files[0]} is a file and {len(given) - len(files)} other(s) are runs; "
            "give either RPN runs or .npz files"
        )
    if given and not files:
        rpns = []
        for path in given:
            weights = read_weights(str(path))
            if _type_of(weights) != "rpn":
                what = "an R-CNN" if weights.kind == "localizer" else f"a {weights.kind}"
                raise UserError(
                    f"--proposals {path}: is {what}; give a run of model.type rpn or a file that "
                    f"{command_line('predict')} RPN_RUN --proposals writes"
                )
            rpn = _placed(build_trained_localizer(weights, of_rpn), device, precision)
            assert isinstance(rpn, Localizer), "its type says so"
            rpns.append(rpn.eval())
        return RPNProposals(rpns, limit, network.class_names)
    if of_rpn:
        raise UserError(
            f"{of_rpn[0]}: belongs to an RPN, and the proposals come from a file; give --proposals "
            "RPN_RUN, or leave it out"
        )
    stored = read_proposals(files, dataset) if files else build_val_proposals(config, dataset)
    return StoredProposals(stored, limit, network.class_names)
