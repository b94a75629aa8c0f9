"""What `resdet convert` runs: converts weights to another layout."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from torch import Tensor

from resdet.config.find import holds_run, own_path
from resdet.errors import UserError
from resdet.files.writing import open_atomic, write_text
from resdet.interop.convert import (
    LAYOUTS,
    contents,
    left_behind,
    to_cifar,
    to_detectron2,
    to_resdet,
    to_torchvision,
)
from resdet.interop.weights import is_published, read_weights

TARGETS: dict[str, tuple[str, ...]] = {
    "resdet": (".pt",),
    "torchvision": (".pth",),
    "detectron2": (".pth", ".pkl"),
    "cifar": (".th",),
}
"""The layouts that are written, each with the endings of its files."""


YAML_NOTE = "# Detectron2's config of {}, written by resdet\n"


def convert(
    spec: str, out: str | Path, *, origin: str | None = None, target: str | None = None
) -> list[str]:
    """Write the weights that `spec` names to `out`; returns log lines.

    `spec` is whatever `read_weights` reads, and `origin` the toolkit it comes from. `target` is a
    key of `TARGETS`; None is what the suffix of `out` belongs to alone. Beside a file of
    Detectron2's layout comes its config, as YAML under the same name. Files are written atomically;
    what is read is never overwritten.
    Raises UserError for a suffix that contradicts the target, weights that the target's toolkit has
    no network for, and what `read_weights` refuses.
    """
    path = own_path(out)
    if holds_run(path) and not (is_published(spec) or own_path(spec).exists()):
        raise UserError(f"{spec}: no such file, and {out} is one; give IN first, then OUT")
    target = choose_target(path, target)
    beside = path.with_suffix(".yaml") if target == "detectron2" else None
    _check_outputs(spec, path, beside)
    weights = read_weights(spec, origin)
    tensors: Mapping[str, Tensor]
    if target == "resdet":
        values = to_resdet(weights)
        tensors = values["model"]
        with open_atomic(path, "wb") as file:
            torch.save(values, file)
    elif target == "torchvision":
        tensors = to_torchvision(weights)
        with open_atomic(path, "wb") as file:
            torch.save(tensors, file)
    elif target == "cifar":
        tensors = to_cifar(weights)
        with open_atomic(path, "wb") as file:
            torch.save({"state_dict": tensors}, file)
    else:
        assert beside is not None
        tensors, config = to_detectron2(weights)
        text = YAML_NOTE.format(path.name) + yaml.safe_dump(config, sort_keys=False)
        write_text(beside, text)
        with open_atomic(path, "wb") as file:
            _dump_detectron2(tensors, file, as_pickle=path.suffix == ".pkl")
    lines = [f"converted {weights.source} to {path}, {LAYOUTS[target]}"]
    lines += contents(weights, len(tensors))
    if beside is not None:
        lines.append(f"config: {beside}")
    return lines + left_behind(weights, target)


def choose_target(path: Path, target: str | None) -> str:
    """The layout to write: `target`, or what the suffix says; UserError where they disagree."""
    fitting = [name for name, suffixes in TARGETS.items() if path.suffix in suffixes]
    if target is not None and target not in TARGETS:
        raise UserError(f"--to {target}: expected one of {', '.join(TARGETS)}")
    if target is not None and target not in fitting:
        raise UserError(f"{path}: {target} files end in {' or '.join(TARGETS[target])}; rename it")
    if not fitting:
        listed = ", ".join(f"{' or '.join(ends)} ({name})" for name, ends in TARGETS.items())
        raise UserError(f"{path}: its extension selects the layout: {listed}; rename it")
    if target is None and len(fitting) > 1:
        raise UserError(
            f"{path}: {path.suffix} files may be {' or '.join(fitting)}; choose one with --to"
        )
    return target or fitting[0]


def _check_outputs(spec: str, path: Path, beside: Path | None) -> None:
    """UserError before anything is read, where writing would overwrite an input or cannot work."""
    given = own_path(spec)
    for out in (path, beside):
        if out is None or not out.exists():
            continue
        in_folder = given.is_dir() and given.resolve() in out.resolve().parents
        if in_folder or (given.is_file() and out.samefile(given)):
            raise UserError(f"{out}: OUT would overwrite IN; give another OUT")
        if out.is_dir():
            raise UserError(f"{out}: is a folder; give a file")
    if beside is not None and beside.is_file():
        first = beside.read_bytes()[:200].decode(errors="replace")
        if not first.startswith(YAML_NOTE.partition("{}")[0]):
            raise UserError(
                f"{beside}: the config of {path.name} would be written here, but a file exists; "
                "give another OUT"
            )
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first")


def _dump_detectron2(state: Mapping[str, Tensor], file: IO[Any], *, as_pickle: bool) -> None:
    if not as_pickle:
        torch.save({"model": dict(state)}, file)
        return
    arrays = {key: value.numpy() for key, value in state.items()}
    # without heuristics Detectron2 takes the names as they are, as it does in its own zoo's files
    values = {"model": arrays, "__author__": "resdet", "matching_heuristics": False}
    pickle.dump(values, file, protocol=4)
