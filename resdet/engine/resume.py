"""Whether a run can resume from a checkpoint, field by field; if not, what else to start from."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resdet.engine.optim import Adaptation
from resdet.engine.watch import ERROR_STEPS
from resdet.errors import UserError
from resdet.files import checkpoint

MAX_THREADS = 1024
SHOWN = 3
"""Problems that a message lists."""
STATES = {
    "sgd": ("momentum_buffer",),
    "adamw": ("step", "exp_avg", "exp_avg_sq"),
    "lamb": ("exp_avg", "exp_avg_sq"),
}
"""What optimizers keep of each parameter, by optim.name."""
OWN_KEYS = ("lr", "step")
"""Of the optimizer's groups, what a run changes; the rest is the config's."""


def load_state(path: Path) -> dict[str, Any]:
    """The content of a run's last.pt; UserError, with what else to start from, for a damaged one.

    Whether it fits the run is for `check_state`, when the run's parts have been made.
    """
    try:
        state = checkpoint.load(path)
    except UserError as error:
        raise UserError(f"{error.args[0]}; {alternative(path)}") from error
    if problems := list(_plain_problems(state)):
        raise unusable(path, problems)
    return state


def unusable(path: Path, problems: Sequence[str]) -> UserError:
    """The error of a checkpoint that no run can resume from."""
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return UserError(
        f"{path}: cannot be resumed from: {'; '.join(problems[:SHOWN])}{more}; {alternative(path)}"
    )


def alternative(path: Path) -> str:
    """What to start from in place of a last.pt that is damaged or of another run."""
    previous, best = path.with_name(checkpoint.PREVIOUS), path.with_name("best.pt")
    try:
        step = checkpoint.load(previous)["step"]
        return (
            f"the checkpoint before it is whole, at step {step}: rename {previous} to {path.name} "
            "and resume again"
        )
    except UserError:
        pass
    try:
        checkpoint.load(best)
        return (
            f"restore it from a copy, or start a new run from the weights of {best}, with "
            f"model.weights={best} and another --run-dir"
        )
    except UserError:
        return "restore it from a copy, or start again with another --run-dir"


def check_state(
    state: Mapping[str, Any],
    path: Path,
    *,
    model: nn.Module,
    averages: Mapping[str, Tensor] | None,
    optimizer: torch.optim.Optimizer,
    optimizer_name: str,
    scaler: Mapping[str, Any],
    classes: tuple[Sequence[str], Sequence[int]],
    total_steps: int,
) -> None:
    """UserError, with what else to start from, where the checkpoint at `path` does not fit the
    parts of the run: its model, averages of it, optimizer, the scaler's state, classes by name and
    id, and length in updates."""
    problems = []
    if [list(state["class_names"]), list(state["category_ids"])] != list(map(list, classes)):
        problems.append(f"its classes are not those of data.train ({', '.join(classes[0][:4])}, …)")
    if state["step"] > total_steps:
        problems.append(f"it is at step {state['step']}, and the run has {total_steps}")
    problems += _tensor_problems("model", model.state_dict(), state["model"])
    if averages is not None:
        problems += _tensor_problems("ema", averages, state["ema"])
    elif state["ema"] is not None:
        problems.append("ema is there, and train.ema_decay is null")
    problems += _optimizer_problems(optimizer, optimizer_name, state["optimizer"], state["step"])
    for key, own in scaler.items():
        value = state["scaler"].get(key)
        if not _is_number(value) or value < 0 or isinstance(value, float) > isinstance(own, float):
            problems.append(f"scaler: {key} is {_shown(value)}")
    if problems:
        raise unusable(path, problems)


def load_optimizer(optimizer: torch.optim.Optimizer, stored: Mapping[str, Any]) -> None:
    """Load a state that `check_state` let pass; hyperparameters are the config's.

    Where only some parameters have a momentum, the others get one of 0, from which they continue as
    without any: fused updates take momenta of all of them, or of none.
    """
    groups = [
        own | {key: there[key] for key in OWN_KEYS if key in own and key in there}
        for own, there in zip(
            optimizer.state_dict()["param_groups"], stored["param_groups"], strict=True
        )
    ]
    optimizer.load_state_dict({"state": stored["state"], "param_groups": groups})
    if optimizer.defaults.get("momentum") and optimizer.state:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter].setdefault(
                    "momentum_buffer", torch.zeros_like(parameter)
                )


def _plain_problems(state: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the fields themselves, in any run."""
    if "optimizer" in state and state["optimizer"] is None:
        yield (
            "it has no state of the optimizer, as best.pt has none: is it a copy of best.pt, whose "
            "weights start a new run (model.weights)"
        )
        return
    for key, (test, expected) in FIELDS.items():
        if key not in state:
            if key not in LATER:
                yield f"{key} is missing"
        elif not test(state[key]):
            yield f"{key} is {_shown(state[key])}, not {expected}"
    best, step = state.get("best"), state.get("step")
    if _is_best(best) and best is not None and _is_count(step) and best["step"] > step:
        yield f"best is of step {best['step']}, after its own step {step}"


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_best(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and set(value) == {"step", "metric", "value"}
        and _is_count(value["step"])
        and isinstance(value["metric"], str)
        and _is_number(value["value"])
    )


def _is_adapted(value: Any) -> bool:
    """{} or the fields of `Adaptation`."""
    if not isinstance(value, dict) or not set(value) <= {each.name for each in fields(Adaptation)}:
        return False
    adapted = Adaptation(**value)
    return (
        isinstance(adapted.is_held, bool)
        and _is_count(adapted.drops)
        and _is_count(adapted.worse)
        and (adapted.best is None or _is_number(adapted.best))
    )


def _is_recent(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= ERROR_STEPS
        and all(_is_number(each) and 0 <= each <= 100 for each in value)
    )


def _is_ending(value: Any) -> bool:
    """{"waited": validations, "seconds": of training}."""
    return (
        isinstance(value, dict)
        and set(value) == {"waited", "seconds"}
        and _is_count(value["waited"])
        and _is_number(value["seconds"])
        and value["seconds"] >= 0
    )


def _is_broken(value: Any) -> bool:
    """{"train": {position: reason}, "val": …}."""
    return isinstance(value, dict) and all(
        isinstance(each, dict)
        and all(_is_count(at) and isinstance(why, str) for at, why in each.items())
        for each in value.values()
    )


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "step": (_is_count, "a count"),
    "model": (lambda value: isinstance(value, dict), "named tensors"),
    "ema": (lambda value: isinstance(value, dict | None), "named tensors or nothing"),
    "optimizer": (lambda value: isinstance(value, dict), "the state of an optimizer"),
    "scaler": (lambda value: isinstance(value, dict), "the state of a scaler"),
    "best": (_is_best, "the step, name and value of a metric"),
    "validation_is_due": (lambda value: isinstance(value, bool), "true or false"),
    "threads": (
        lambda value: _is_count(value) and 0 < value <= MAX_THREADS,
        f"a number of threads from 1 to {MAX_THREADS}",
    ),
    "data": (lambda value: isinstance(value, str | dict), "a fingerprint of the data"),
    "adapted": (_is_adapted, "the state of the learning rate"),
    "recent": (_is_recent, f"up to {ERROR_STEPS} errors in percent"),
    "broken": (_is_broken, "reasons by position of images"),
    "finalized": (lambda value: isinstance(value, bool), "true or false"),
    "ending": (_is_ending, "counts of validations and seconds"),
}
"""Of a run's checkpoint: how each is checked, and what it has to be."""
LATER = ("adapted", "recent", "broken", "finalized", "ending")
"""Fields that older checkpoints lack."""


def _shown(value: Any) -> str:
    """A value in a few characters; of tensors and containers the type."""
    if value is None or isinstance(value, int | float | str):
        return repr(value if not isinstance(value, str) else value[:40])
    return f"a {type(value).__name__}"


def _tensor_problems(what: str, own: Mapping[str, Tensor], there: Mapping[str, Any]) -> list[str]:
    """Where named tensors do not fit those that the run has."""
    if not isinstance(there, Mapping):
        return [f"{what} is {_shown(there)}, not named tensors"]
    problems = []
    for words, names in (
        ("lacks", [name for name in own if name not in there]),
        ("has the unknown", [str(name)[:80] for name in there if name not in own]),
    ):
        if names:
            problems.append(f"{what} {words} {', '.join(names[:SHOWN])} ({len(names)} tensors)")
    for name, tensor in own.items():
        if name in there and (problem := _problem_of(tensor, there[name])):
            problems.append(f"{what}: {name} {problem}")
    return problems


def _problem_of(own: Tensor, there: Any) -> str | None:
    """What is wrong with one tensor."""
    if not isinstance(there, Tensor):
        return f"is {_shown(there)}, not a tensor"
    if there.shape != own.shape:
        return f"has shape {tuple(there.shape)}, here {tuple(own.shape)}"
    if there.is_floating_point() != own.is_floating_point() or there.is_complex():
        return f"is of type {there.dtype}, here {own.dtype}"
    if not bool(torch.isfinite(there).all()):
        return "has NaN or infinite values"
    return None


def _optimizer_problems(
    optimizer: torch.optim.Optimizer, name: str, there: Mapping[str, Any], step: int
) -> list[str]:
    own = optimizer.state_dict()["param_groups"]
    groups, states = there.get("param_groups"), there.get("state")
    if not isinstance(groups, list) or not isinstance(states, dict):
        return ["optimizer has no state or no param_groups"]
    if [group.get("params") if isinstance(group, dict) else None for group in groups] != [
        group["params"] for group in own
    ]:
        return ["optimizer is that of other parameters"]
    for group in groups:
        for key in OWN_KEYS:
            if key in group and (not _is_number(group[key]) or group[key] < 0):
                return [f"optimizer: {key} is {_shown(group[key])}"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keeps = STATES[name] if name != "sgd" or optimizer.defaults["momentum"] else ()
    if keeps and step and not states:
        return [f"optimizer has no state after {step} steps"]
    for index, values in states.items():
        if not _is_count(index) or index >= len(parameters) or not isinstance(values, dict):
            return [f"optimizer: its state {_shown(index)} belongs to no parameter"]
        if set(values) - {"momentum_buffer"} != set(keeps) - {"momentum_buffer"}:
            return [f"optimizer: state {index} is not that of {name}"]
        for key, value in values.items():
            if value is None and key == "momentum_buffer" and not keeps:
                continue
            like = torch.zeros(()) if key == "step" else parameters[index].detach()
            problem = _problem_of(like, value)
            if problem is None and key in ("step", "exp_avg_sq") and bool((value < 0).any()):
                problem = "has negative values"
            if problem:
                return [f"optimizer: {key} of parameter {index} {problem}"]
    return []
