"""What a run's checkpoint knows of its data, so that a resumed run and every process have the same.

Paths are not part of it: data that moved are the same data.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resdet.data.fingerprint import Fingerprint, sampled_rows
from resdet.engine import distributed
from resdet.engine.distributed import Processes
from resdet.errors import UserError
from resdet.files.findings import Finding, summarize_findings

logger = logging.getLogger("resdet")

SHOWN = 3
"""Images that a message names."""

REMEDY = (
    "restore what the run started with (paths may differ), or start a new run with --run-dir and "
    "model.weights set to this run"
)


@dataclass
class DataSet:
    """One data set of a run."""

    fingerprint: Fingerprint
    name_of: Callable[[int], str]
    """What messages call an image, by its position."""


@dataclass
class DataRecord:
    """The data of a run, as this process has them."""

    sets: dict[str, DataSet]
    """data.train, and data.val where there is one."""
    old_digest: Callable[[], str]
    """The digest of the training data in checkpoints of 0.1.0, which held nothing else."""
    others: dict[str, str] = field(default_factory=dict)
    """Digests of what else the numbers of the run depend on, by the config's key."""

    def state(self) -> dict[str, Any]:
        """Plain values and tensors for the checkpoint: 8 bytes per image, and 8 per file."""
        return {
            "sets": {key: _state(data.fingerprint) for key, data in self.sets.items()},
            "others": dict(self.others),
        }


def _state(fingerprint: Fingerprint) -> dict[str, Any]:
    return {
        "classes": fingerprint.classes,
        "names": _fold(fingerprint.names),
        "annotations": _fold(fingerprint.annotations),
        "files": torch.from_numpy(fingerprint.files),
        "left_out": torch.from_numpy(fingerprint.left_out),
    }


def _fold(hashes: NDArray[np.int64]) -> Tensor:
    """The upper half of each, (N,) int32: enough to compare one image with itself."""
    return torch.from_numpy((hashes >> 32).astype(np.int32))


def left_out_of(state: Mapping[str, Any]) -> dict[str, NDArray[np.int64]]:
    """By data set, the images that a run left out at its start; see `Resumed.left_out`."""
    stored = _stored(state)
    if isinstance(stored, str):
        return {}
    return {key: one["left_out"].numpy() for key, one in stored["sets"].items()}


def _stored(state: Mapping[str, Any]) -> Any:
    """The record in a checkpoint: what `DataRecord.state` returned, or the text of 0.1.0."""
    data = state.get("data")
    if isinstance(data, str) or (
        isinstance(data, dict)
        and isinstance(data.get("others"), dict)
        and isinstance(data.get("sets"), dict)
        and all(isinstance(one, dict) and _is_whole(one) for one in data["sets"].values())
    ):
        return data
    raise UserError(
        "the checkpoint to resume from: its record of the data is damaged; copy the checkpoint "
        "again, or start a new run with --run-dir"
    )


def _is_whole(one: Mapping[str, Any]) -> bool:
    """Whether a stored data set has all that `_state` writes."""
    types = {"names": torch.int32, "annotations": torch.int32}
    types |= {"files": torch.int64, "left_out": torch.int64}
    tensors = [one.get(key) for key in types]
    return isinstance(one.get("classes"), str) and all(
        isinstance(tensor, Tensor) and tensor.ndim == 1 and tensor.dtype is dtype
        for tensor, dtype in zip(tensors, types.values(), strict=True)
    )


def check_data(state: Mapping[str, Any], record: DataRecord) -> None:
    """UserError where the data are not what a run started with, by the rule of its checkpoint.

    Images that the run has left out as broken, `state["broken"]`, may have been repaired since.
    """
    stored = _stored(state)
    if isinstance(stored, str):
        if (digest := record.old_digest()) != stored:
            raise UserError(
                f"data.train changed since this run started: {stored} then, {digest} now; {REMEDY}"
            )
        if "data.val" in record.sets:
            logger.info(
                "data.val: not compared; this run began with a version that did not record it"
            )
        return
    problems = []
    for key in [*stored["sets"], *(key for key in record.sets if key not in stored["sets"])]:
        then, now = stored["sets"].get(key), record.sets.get(key)
        if then is None or now is None:
            problems.append(f"{key}: {'none' if then is None else 'a data set'} then")
            continue
        broken = (state.get("broken") or {}).get(key.removeprefix("data.")) or {}
        found = _compare(then, now, np.array(sorted(broken), np.int64), key)
        problems += [f"{key} changed since this run started: {found}"] if found else []
    for key in sorted({*stored["others"], *record.others}):
        if stored["others"].get(key) != record.others.get(key):
            problems.append(f"{key} is not what this run started with")
    if problems:
        raise UserError(f"{'; '.join(problems)}; {REMEDY}")


def _compare(
    then: Mapping[str, Any], data: DataSet, broken: NDArray[np.int64], key: str
) -> str | None:
    """How a data set differs from the stored one; images in `broken` may, with a note."""
    now = data.fingerprint
    names, count = _fold(now.names).numpy(), len(now.names)
    before = then["names"].numpy()
    if then["classes"] != now.classes:
        return "other classes, or in another order"
    if len(before) != count:
        new = np.flatnonzero(~np.isin(names, before))
        gone = int((~np.isin(before, names)).sum())
        more = [f"new: {_some(data, new)}"] if len(new) else []
        more += [f"{gone} missing"] if gone else []
        return f"{len(before)} images then, {count} now" + (f" ({'; '.join(more)})" if more else "")
    renamed = np.flatnonzero(names != before)
    if len(renamed):
        if np.array_equal(np.sort(names), np.sort(before)):
            return "the same images in another order"
        return f"other file names of {_some(data, renamed)}"
    annotated = np.flatnonzero(_fold(now.annotations).numpy() != then["annotations"].numpy())
    rows = sampled_rows(count) if len(now.files) else np.zeros(0, np.int64)
    files = then["files"].numpy()
    if len(files) != len(now.files):
        return "another kind of image files"
    replaced = rows[files != now.files]
    repaired = np.intersect1d(np.union1d(annotated, replaced), broken)
    if len(repaired):
        logger.info(
            f"{key}: {_some(data, repaired)}: left out as broken so far, changed since; used from "
            "here on"
        )
    problems = [
        f"{what} of {_some(data, left)}"
        for what, changed in (("other annotations", annotated), ("other files", replaced))
        if len(left := np.setdiff1d(changed, broken))
    ]
    return " and ".join(problems) or None


def _some(data: DataSet, rows: NDArray[np.int64]) -> str:
    """How many images, and the first few by name."""
    names = [data.name_of(row) for row in rows[:SHOWN].tolist()]
    return f"{len(rows)} image(s) ({', '.join(names)}{', …' if len(rows) > SHOWN else ''})"


def compare_processes(
    record: DataRecord, findings: Sequence[Finding], processes: Processes
) -> None:
    """UserError, in every process, where the processes have different data.

    The main process logs the findings that only others have: their hosts may have other files.
    """
    if processes.world_size == 1:
        return
    own = {key: _short(data.fingerprint) for key, data in record.sets.items()} | record.others
    lines = summarize_findings(findings)
    gathered = distributed.gather((socket.gethostname(), lines, own), processes)
    hosts = [f"process {rank} ({host})" for rank, (host, _, _) in enumerate(gathered)]
    for place, (_, theirs, _) in zip(hosts, gathered, strict=True):
        for line in theirs:
            if line not in gathered[0][1]:
                logger.warning(f"{place}: {line}")
    for key in own:
        values = [found.get(key, "none") for _, _, found in gathered]
        other = next((rank for rank, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise UserError(
                f"{key} is not the same in all processes: {values[0]} in {hosts[0]}, "
                f"{values[other]} in {hosts[other]}; give every process the same files"
            )


def _short(fingerprint: Fingerprint) -> str:
    return f"{len(fingerprint.names)} images, {fingerprint.digest()}"
