"""Detectron2's settings by dotted keys: its defaults, and its YAML files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from resdet.errors import UserError

Settings = Mapping[str, Any]

_TABLES = yaml.safe_load(Path(__file__).with_name("defaults.yaml").read_text(encoding="utf-8"))
DEFAULTS: dict[str, Any] = _TABLES["defaults"]
"""Detectron2's defaults of the settings that are read here."""
FIXED: dict[str, Any] = _TABLES["fixed"]
"""Settings of which resdet only supports Detectron2's default."""
SAME: dict[str, str] = _TABLES["same"]
"""Keys of values that both share, resdet's and Detectron2's."""
SAME_NORMS: dict[str, str] = _TABLES["same_norms"]
NORMS: dict[str, str] = _TABLES["norms"]
"""Detectron2's names of norms, and resdet's."""


def read_yaml(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a YAML file of Detectron2 and of its `_BASE_` files, by dotted keys.

    `above` are the files that are based on this one. Raises UserError for files of another kind.
    """
    path = path.resolve()
    if path in above:
        raise UserError(f"{path}: its _BASE_ files refer to each other; remove a _BASE_")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as a config of Detectron2: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a config of Detectron2: it has no sections")
    base = values.pop("_BASE_", None)
    below = read_yaml(path.parent / str(base), (*above, path)) if base else {}
    return {**below, **_flat(values)}


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            settings |= _flat(value, f"{name}.")
        else:
            settings[name] = _literal(value)
    return settings


def _literal(value: Any) -> Any:
    """Tuples, which are strings in YAML, become lists: "(60000, 80000)"."""
    if isinstance(value, str) and value.startswith("(") and value.endswith(")"):
        inner = yaml.safe_load(f"[{value[1:-1].rstrip(', ')}]")
        return [_literal(item) for item in inner]
    return value


def nested(settings: Settings) -> dict[str, Any]:
    """Dotted keys as nested sections, as in a YAML file."""
    top: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        inner = top
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return top
