"""pydantic's findings in our words: the key, what is wrong, what is allowed, the file and line."""

import difflib
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from resdet.config.describe import (
    choices,
    describe,
    item_section,
    list_keys,
    section_of,
)
from resdet.config.fields import MOST, Section
from resdet.config.strict_yaml import ConfigError, KeyPath, Layer

_MOST_SHOWN = 10


def explain(error: ValidationError, layer: Layer, schema: type[Section]) -> ConfigError:
    """One line for each key of a config of this schema that is wrong."""
    lines: dict[str, None] = {}
    findings = error.errors(include_url=False)
    # words for a few of them: near names take time
    for finding in findings[: 5 * _MOST_SHOWN]:
        lines.setdefault(_line(dict(finding), layer, schema))
    shown = list(lines)[:_MOST_SHOWN]
    more = len(lines) - len(shown) + max(0, len(findings) - 5 * _MOST_SHOWN)
    if more:
        shown.append(f"… and {more} more")
    return ConfigError(*shown)


def place_of(path: KeyPath, layer: Layer) -> str:
    """Where a key is; for one that is written nowhere, the place of the nearest key above it."""
    for end in range(len(path), 0, -1):
        if path[:end] in layer.places:
            return layer.places[path[:end]]
    return layer.name


def unknown_key(path: KeyPath, layer: Layer, schema: type[Section]) -> str:
    """The line for a key that the schema does not have, with the nearest one that it has."""
    section = _section_at(path[:-1], schema)
    name = str(path[-1])
    return (
        f"{dotted(path)}: unknown key{_near_key(name, section, schema)} ({place_of(path, layer)})"
    )


def dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _line(finding: dict[str, Any], layer: Layer, schema: type[Section]) -> str:
    """The message for one of pydantic's findings."""
    path: KeyPath = tuple(finding["loc"])
    kind = finding["type"]
    if kind == "extra_forbidden":
        return unknown_key(path, layer, schema)
    if kind == "missing":
        field = _field_at(path, schema)
        what = "" if field is None else f"; give {describe(field.annotation, field.metadata)}"
        return f"{dotted(path)}: missing{what} ({place_of(path, layer)})"
    if kind in ("value_error", "assertion_error"):
        text = str(finding["ctx"]["error"])
        lead = "" if not path or dotted(path) in text else f"{dotted(path)}: "
        return f"{lead}{text} ({place_of(path, layer)})"
    path = _existing(path, layer.values)
    return _wrong_value(path, layer, schema)


def _wrong_value(path: KeyPath, layer: Layer, schema: type[Section]) -> str:
    value = _value_at(path, layer.values)
    field = _field_at(path, schema)
    if field is None:
        # an item of a list: the list's own description says what items may be
        parent = _field_at(path[:-1], schema)
        expected = "another value" if parent is None else _up_to(_describe_field(parent), value)
        return (
            f"{dotted(path)}: {_shown(value)} does not fit; {dotted(path[:-1])} is {expected} "
            f"({place_of(path, layer)})"
        )
    expected = _up_to(_describe_field(field), value)
    near = difflib.get_close_matches(str(value), choices(field.annotation), 1)
    hint = f", did you mean {near[0]}?" if near and near[0] != value else ""
    return (
        f"{dotted(path)}: expected {expected}, got {_shown(value)}{hint} ({place_of(path, layer)})"
    )


def _up_to(expected: str, value: Any) -> str:
    """With the limit of all numbers, where it is passed and no other one is there."""
    if not isinstance(value, int | float) or value <= MOST:
        return expected
    is_limited = " at most " in expected or " from " in expected
    return expected if is_limited else f"{expected} and at most {MOST}"


def _describe_field(field: FieldInfo) -> str:
    text = describe(field.annotation, field.metadata)
    section = section_of(field.annotation)
    if section is not None:
        names = list(section.model_fields)
        more = ", …" if len(names) > 6 else ""
        text += f" with the keys {', '.join(names[:6])}{more}"
    return text


def _near_key(name: str, section: type[Section] | None, schema: type[Section]) -> str:
    """A hint for an unknown key: near names here, then the same name elsewhere, then all names."""
    if section is None:
        return ""
    if "." in name:
        return "; keys with dots are for the command line, in a file nest the sections"
    known = list(section.model_fields)
    near = difflib.get_close_matches(name, known, 1, cutoff=0.7)
    if near:
        return f", did you mean {near[0]}?"
    elsewhere = [doc.key for doc in list_keys(schema) if doc.key.rsplit(".", 1)[-1] == name]
    if elsewhere:
        return f", did you mean {' or '.join(elsewhere[:3])}?"
    far = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    if far:
        return f", did you mean {far[0]}?"
    return f"; the keys here are {', '.join(known)}"


def _section_at(path: KeyPath, schema: type[Section]) -> type[Section] | None:
    """The section at a path of keys and list positions, None where there is none."""
    section: type[Section] | None = schema
    field: FieldInfo | None = None
    for part in path:
        if isinstance(part, int):
            section = None if field is None else item_section(field.annotation)
            continue
        field = None if section is None else section.model_fields.get(part)
        section = None if field is None else section_of(field.annotation)
    return section


def _field_at(path: KeyPath, schema: type[Section]) -> FieldInfo | None:
    """The field that a path ends in; None for an item of a list."""
    if not path or isinstance(path[-1], int):
        return None
    section = _section_at(path[:-1], schema)
    return None if section is None else section.model_fields.get(path[-1])


def _existing(path: KeyPath, values: Any) -> KeyPath:
    """The part of pydantic's location that is in the values: it adds the tags of unions."""
    for position, part in enumerate(path):
        in_list = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if in_list or (isinstance(values, dict) and part in values):
            values = values[part]
        else:
            return path[:position]
    return path


def _value_at(path: KeyPath, values: Any) -> Any:
    for part in path:
        values = values[part]
    return values


def _shown(value: Any) -> str:
    """A value as the user knows it, shortened."""
    if value is None:
        return "null"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
