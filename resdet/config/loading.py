"""From a YAML file and `key=value` overrides to a checked config, and back to plain values.

Order: the files named by `_base_`, the file itself, the overrides; dicts merge, lists and values
replace, and null in place of a section clears what is under it.
"""

import copy
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, overload

from pydantic import ValidationError

from resdet.config.classification import ClassificationConfig
from resdet.config.describe import is_nullable, section_of
from resdet.config.detection import DetectionConfig
from resdet.config.fields import Section
from resdet.config.find import find_config, find_shipped, is_file, own_path, read_text, shown
from resdet.config.localization import LocalizationConfig
from resdet.config.messages import dotted, explain, place_of
from resdet.config.strict_yaml import ConfigError as ConfigError
from resdet.config.strict_yaml import KeyPath, Layer, dump, parse, parse_value
from resdet.errors import command_line

LOG = logging.getLogger("resdet")

AnyConfig = DetectionConfig | ClassificationConfig | LocalizationConfig
Schema = type[AnyConfig] | tuple[type[AnyConfig], ...]
"""Which tasks are accepted; of several, the first where the config names none."""
C = TypeVar("C", bound=AnyConfig)
_SCHEMAS: dict[str, type[AnyConfig]] = {
    "detection": DetectionConfig,
    "classification": ClassificationConfig,
    "localization": LocalizationConfig,
}

_FORMER_VALUES: dict[KeyPath, dict[Any, Any]] = {("train", "compile"): {"recorded": True}}
"""Values that older configs and run folders may hold, and what each is read as."""

ANNOTATIONS = re.compile(r'^\s*\{.*"(images|annotations|categories)"\s*:\s*\[', re.DOTALL)
LONGEST_HEAD = 10_000
"""Characters of a file by which annotations are distinguished from a config."""
MAX_BASES = 30
"""Files in a row that name each other as `_base_`."""
MAX_PARTS = 20
"""Names in the key of an override."""
MAX_DIGITS = 10
"""Of a position in a list."""
MAX_SHOWN = 200
"""Characters of an override in messages."""

_EXCLUSIVE: tuple[KeyPath, KeyPath] = (("train", "epochs"), ("train", "max_steps"))


@overload
def load_config(path: str | Path, overrides: Sequence[str] = ...) -> DetectionConfig: ...
@overload
def load_config(path: str | Path, overrides: Sequence[str] = ..., *, schema: type[C]) -> C: ...
@overload
def load_config(
    path: str | Path, overrides: Sequence[str] = ..., *, schema: tuple[type[AnyConfig], ...]
) -> AnyConfig: ...
def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, schema: Any = DetectionConfig
) -> Any:
    """The config of a YAML file and its bases, with `key=value` overrides on top.

    `path` is a file, or the name of a shipped config such as `demo_nuclei`. Overrides are typed
    like a file: `optim.lr=1e-3`, `model.roi.mask_head=null`, `data.classes=[cat, dog]`; where a key
    comes twice, the last one counts. Of several schemas, that of the config's task is taken. Raises
    ConfigError naming the key, the file and the line.
    """
    layer = _with_overrides(_read_layers(find_config(path), (), {}), overrides)
    if isinstance(schema, tuple):
        own = _schema_of(layer)
        schema = own if own in schema else schema[0]
    return _checked(layer, schema)


def load_any_config(path: str | Path, overrides: Sequence[str] = ()) -> AnyConfig:
    """As `load_config`, of the task that its key `task` names; without one, of detection."""
    layer = _with_overrides(_read_layers(find_config(path), (), {}), overrides)
    return _checked(layer, _schema_of(layer))


def override_config(config: C, overrides: Sequence[str], source: str) -> C:
    """A config with overrides on top; `source` names it in messages.

    A key that neither of them sets stays unset.
    """
    layer = Layer(config.model_dump(mode="json", exclude_unset=True), {}, source)
    return _checked(_with_overrides(layer, overrides), type(config))


def with_batch_size(config: C, batch_size: int) -> C:
    """The config with so many images per update."""
    train = config.train.model_copy(update={"batch_size": batch_size})
    return cast(C, config.model_copy(update={"train": train}))


def config_from_dict(values: dict[str, Any], source: str) -> AnyConfig:
    """A config from the plain values `config_to_dict` gave; errors name `source`."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: its config is a {type(values).__name__}, not a mapping")
    layer = Layer(copy.deepcopy(values), {}, source)
    return _checked(layer, _schema_of(layer))


def train_command(task: str) -> str:
    """The command that trains a config of a task, as the user can run it."""
    return command_line("train-cls" if task == "classification" else "train-det")


def _schema_of(layer: Layer) -> type[AnyConfig]:
    task = layer.values.get("task", "detection")
    if not isinstance(task, str) or task not in _SCHEMAS:
        raise ConfigError(
            f"task: expected one of {', '.join(_SCHEMAS)}, got {task!r} "
            f"({place_of(('task',), layer)})"
        )
    return _SCHEMAS[task]


def config_to_dict(config: AnyConfig) -> dict[str, Any]:
    """Plain dicts, lists, strings and numbers only: what a checkpoint may hold."""
    return config.model_dump(mode="json")


def dump_yaml(config: AnyConfig) -> str:
    """The whole config as YAML that `load_config` reads back to an equal one."""
    return dump(config_to_dict(config))


def diff_configs(old: AnyConfig, new: AnyConfig) -> list[tuple[str, Any, Any]]:
    """Every key that differs: (dotted key, old value, new value), in the order of the schema."""
    return list(_differences((), config_to_dict(old), config_to_dict(new)))


def _differences(path: KeyPath, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        differing = []
        for key in [*old, *(key for key in new if key not in old)]:
            differing += _differences((*path, key), old.get(key), new.get(key))
        return differing
    return [] if old == new else [(dotted(path), old, new)]


def _read_layers(path: Path, parents: tuple[Path, ...], known: dict[Path, Layer]) -> Layer:
    """A file merged over its bases. `parents` are the files that led here, `known` those that were
    read before."""
    resolved = Path(os.path.realpath(path))
    if resolved in parents:
        chain = " → ".join(shown(p) for p in (*parents[parents.index(resolved) :], resolved))
        raise ConfigError(f"_base_ files refer to each other: {chain}")
    if resolved in known:
        return copy.deepcopy(known[resolved])
    if len(parents) > MAX_BASES:
        raise ConfigError(f"{shown(path)}: _base_ leads through more than {MAX_BASES} files")
    text = read_text(path)
    if ANNOTATIONS.search(text[:LONGEST_HEAD]):
        raise ConfigError(
            f"{shown(path)}: a file of annotations, not a config; give it as "
            "data.train.annotations of a config such as configs/own_data.yaml"
        )
    layer = parse(text, shown(path))
    bases = layer.values.pop("_base_", None) or []
    place = layer.places.pop(("_base_",), layer.name)
    merged = Layer(name=layer.name)
    for base in [bases] if isinstance(bases, str) else bases if isinstance(bases, list) else [None]:
        if not isinstance(base, str):
            wrong = bases if base is None else base
            raise ConfigError(
                f"_base_: expected a path or a list of paths, got {wrong!r:.60} ({place})"
            )
        base_path = path.parent / own_path(base)
        if not is_file(base_path):
            shipped = find_shipped(Path(base))
            if shipped is None:
                raise ConfigError(f"_base_: no file {shown(base_path)} ({place})")
            base_path = shipped
        _merge(merged, _read_layers(base_path, (*parents, resolved), known))
    _merge(merged, layer)
    known[resolved] = copy.deepcopy(merged)
    return merged


def _with_overrides(layer: Layer, overrides: Sequence[str]) -> Layer:
    """`key=value` overrides on top of a merged layer; together they count as one layer."""
    top = Layer(name="the overrides")
    given: dict[KeyPath, tuple[Any, str]] = {}
    for text in overrides:
        key, value, place = _parse_override(text)
        given.pop(key, None)
        given[key] = (value, place)
        if key[0] == "train":
            _set(top, key, value, place)
    _replace_exclusive(layer, top)
    for key, (value, place) in given.items():
        _set(layer, key, value, place)
    return layer


def _parse_override(text: str) -> tuple[KeyPath, Any, str]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        raise ConfigError(f"override {text!r}: write key=value, such as optim.lr=0.01")
    if not value.strip():
        raise ConfigError(
            f"override {text!r}: no value; {key}=null clears it, {key}='' is an empty string"
        )
    parts = key.split(".")
    if len(key) > MAX_SHOWN:
        raise ConfigError(f"override {_short(text)}: no key has {len(key)} characters")
    if len(parts) > MAX_PARTS:
        raise ConfigError(f"override {_short(text)}: no key has {len(parts)} parts")
    path: KeyPath = tuple(
        int(part) if part.isdecimal() and len(part) < MAX_DIGITS else part for part in parts
    )
    place = f"override {_short(text)}"
    return path, parse_value(value, path, place), place


def _short(text: str) -> str:
    """An override as messages show it."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _set(layer: Layer, path: KeyPath, value: Any, place: str) -> None:
    """Merge one override into a layer; numbers in the path are positions in a list."""
    node: Any = layer.values
    for depth, part in enumerate(path[:-1]):
        _check_holds(node, path, depth, place)
        if isinstance(part, int) or isinstance(node, list):
            node = node[_position(node, path[: depth + 1], place)]
            continue
        if not isinstance(node.get(part), dict | list):
            node[part] = {}
            _forget(layer, path[: depth + 1])
            layer.places[path[: depth + 1]] = place
        node = node[part]
        if isinstance(node, list) and not isinstance(path[depth + 1], int):
            raise ConfigError(
                f"{dotted(path)}: {dotted(path[: depth + 1])} is a list; name a position, such as "
                f"{dotted(path[: depth + 1])}.0.{dotted(path[depth + 1 :])} ({place})"
            )
    last: Any = path[-1]
    _check_holds(node, path, len(path) - 1, place)
    if isinstance(last, int) or isinstance(node, list):
        last = _position(node, path, place)
    old = node[last] if isinstance(node, list) else node.get(last)
    if isinstance(old, dict) and isinstance(value, dict):
        for key, item in value.items():
            _set(layer, (*path, key), item, place)
        return
    _forget(layer, path)
    node[last] = value
    layer.places[path] = place


def _check_holds(node: Any, path: KeyPath, depth: int, place: str) -> None:
    """ConfigError where the first `depth` parts of a path lead to a value without keys."""
    if not isinstance(node, dict | list):
        raise ConfigError(
            f"{dotted(path)}: {dotted(path[:depth])} is {node!r:.60}, which has no keys ({place})"
        )


def _position(node: Any, path: KeyPath, place: str) -> int:
    """The list position that ends `path`; an error where the files give no such list or item."""
    position = path[-1]
    if not isinstance(node, list) or not isinstance(position, int):
        raise ConfigError(
            f"{dotted(path)}: no list in the config files to change one item of; give the whole "
            f"list, {dotted(path[:-1])}=[…] ({place})"
        )
    if position >= len(node):
        raise ConfigError(
            f"{dotted(path)}: the list has {len(node)} items, counted from 0 ({place})"
        )
    return position


def _merge(under: Layer, over: Layer) -> None:
    """Merge `over` into `under`, in place."""
    _replace_exclusive(under, over)
    _merge_values(under, over, under.values, over.values, ())


def _merge_values(
    under: Layer, over: Layer, old: dict[str, Any], new: dict[str, Any], path: KeyPath
) -> None:
    for key, value in new.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            under.places[here] = over.places.get(here, over.name)
            _merge_values(under, over, old[key], value, here)
            continue
        if key in old:
            _forget(under, here)
        old[key] = value
        if isinstance(value, dict | list):
            below = {p: place for p, place in over.places.items() if p[: len(here)] == here}
            under.places.update(below)
        elif here in over.places:
            under.places[here] = over.places[here]


def _forget(layer: Layer, path: KeyPath) -> None:
    """Drop the places at and below a path."""
    for known in [known for known in layer.places if known[: len(path)] == path]:
        del layer.places[known]


def _replace_exclusive(under: Layer, over: Layer) -> None:
    """train.epochs or train.max_steps: both in one layer is an error, a later one replaces."""
    given = [path for path in _EXCLUSIVE if _get(over.values, path) is not None]
    if len(given) == 2:
        places = " and ".join(place_of(path, over) for path in given)
        raise ConfigError(f"give train.epochs or train.max_steps, not both ({places})")
    for path in given:
        other = _EXCLUSIVE[1 - _EXCLUSIVE.index(path)]
        old = _get(under.values, other)
        if old is None:
            continue
        LOG.info(
            "%s=%s (%s) replaces %s=%s (%s)",
            dotted(path),
            _get(over.values, path),
            place_of(path, over),
            dotted(other),
            old,
            place_of(other, under),
        )
        del under.values["train"][other[-1]]
        _forget(under, other)


def _get(values: Any, path: KeyPath) -> Any:
    for part in path:
        if not isinstance(values, dict):
            return None
        values = values.get(part)
    return values


def _checked(layer: Layer, schema: type[C]) -> C:
    """The merged values against a schema."""
    task = layer.values.get("task", "detection" if _is_detection(layer.values) else None)
    if task is not None and _schema_of(layer) is not schema:
        raise ConfigError(
            f"{layer.name}: this config is for {task}; run it with {train_command(task)} "
            f"({place_of(('task',), layer)})"
        )
    _clear_null_sections(layer.values, schema)
    _read_former_values(layer)
    try:
        text = json.dumps(layer.values, allow_nan=False)
        # lone surrogates
        json.dumps(layer.values, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{layer.name}: a config holds plain values only: {error}") from None
    try:
        # from JSON, so that strict typing ("8" is not 8) still takes lists and dicts
        return cast(C, schema.model_validate_json(text, strict=True))
    except ValidationError as error:
        raise explain(error, layer, schema) from None


def _read_former_values(layer: Layer) -> None:
    """Replace values that older configs hold by today's, with a note."""
    for path, values in _FORMER_VALUES.items():
        old = _get(layer.values, path)
        if isinstance(old, str) and old in values:
            given = f"{dotted(path)}={old} ({place_of(path, layer)})"
            LOG.info("%s is a former value; it is read as %s", given, json.dumps(values[old]))
            _get(layer.values, path[:-1])[path[-1]] = values[old]


def _is_detection(values: dict[str, Any]) -> bool:
    """Whether values without a task have sections that only detectors have."""
    model = values.get("model")
    return isinstance(model, dict) and any(name in model for name in ("fpn", "rpn", "roi"))


def _clear_null_sections(values: Any, section: type[Section]) -> None:
    """Null for a section that can't be null brings its defaults back."""
    if not isinstance(values, dict):
        return
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is None or is_nullable(field.annotation):
            continue
        if values.get(name) is None and (name in values or field.is_required()):
            values[name] = {}
        _clear_null_sections(values.get(name), inner)
