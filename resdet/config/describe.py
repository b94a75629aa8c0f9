"""What the schema says about each key, in words: for errors and for `--help-config`."""

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from resdet.config.detection import DetectionConfig
from resdet.config.fields import MOST, Section
from resdet.config.strict_yaml import dump
from resdet.errors import UserError

_PLURALS = {
    "a number": "numbers",
    "a whole number": "whole numbers",
    "a string": "strings",
    "a mapping": "mappings",
    "a section": "sections",
}


@dataclass
class KeyDoc:
    """One key of the config, as `--help-config` shows it."""

    key: str
    """Dotted; `[]` stands for a position in a list of sections."""
    expects: str
    default: str
    doc: str


def section_of(annotation: Any) -> type[Section] | None:
    """The section a field holds, itself or beside null; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for part in _members(annotation):
        if part is not annotation and (section := section_of(part)) is not None:
            return section
    return None


def item_section(annotation: Any) -> type[Section] | None:
    """The section that a list's items are, or None."""
    for part in _members(annotation):
        if get_origin(part) is list:
            return section_of(get_args(part)[0])
    return None


def is_nullable(annotation: Any) -> bool:
    return types.NoneType in _members(annotation)


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a value has to be, in words: "a whole number above 0", "one of bn, gn, or null"."""
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        return describe(inner, [*metadata, *extra])
    if get_origin(annotation) in (Union, types.UnionType):
        return _describe_union(annotation)
    if get_origin(annotation) is Literal:
        return "one of " + _listed([str(value) for value in get_args(annotation)])
    if get_origin(annotation) is list:
        return _describe_list(annotation, _limits(metadata))
    if section_of(annotation) is not None:
        return "a section"
    if get_origin(annotation) is dict or annotation is dict:
        return "a mapping"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
    return f"{words.get(annotation, 'any value')}{_range(_limits(metadata))}"


def choices(annotation: Any) -> list[str]:
    """Every literal a value may be, for near-name hints."""
    literals: list[str] = []
    for part in _members(annotation):
        if get_origin(part) is Literal:
            literals += [value for value in get_args(part) if isinstance(value, str)]
    return literals


def list_keys(section: type[Section] = DetectionConfig, prefix: str = "") -> Iterator[KeyDoc]:
    """Every key below a section, in the order of the schema."""
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        inner = section_of(field.annotation)
        if inner is None or is_nullable(field.annotation):
            yield KeyDoc(
                key,
                describe(field.annotation, field.metadata),
                _default(field),
                " ".join((field.description or "").split()),
            )
        if inner is not None:
            yield from list_keys(inner, f"{key}.")
        elif (item := item_section(field.annotation)) is not None:
            yield from list_keys(item, f"{key}[].")


def explain_keys(prefix: str = "", schema: type[Section] = DetectionConfig) -> str:
    """Every key that starts with `prefix`: its default, what it may be, and what it means.

    Raises UserError where no key starts with it.
    """
    docs = [doc for doc in list_keys(schema) if doc.key.startswith(prefix)]
    if not docs:
        raise UserError(
            f"no config key starts with {prefix!r}; --help-config without a prefix lists them all"
        )
    return "\n".join(
        f"{doc.key}: {doc.default}\n    {doc.expects}" + (f"\n    {doc.doc}" if doc.doc else "")
        for doc in docs
    )


def _members(annotation: Any) -> tuple[Any, ...]:
    """The parts of a union, `Annotated` taken off; a plain annotation is its own one part."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for arg in get_args(annotation) for part in _members(arg))
    return (annotation,)


def _describe_union(annotation: Any) -> str:
    parts: list[str] = []
    for arg in get_args(annotation):
        if arg is types.NoneType:
            continue
        if arg is bool:
            parts += ["true", "false"]
        elif get_origin(arg) is Literal:
            names = [str(value) for value in get_args(arg)]
            parts += names if parts else [f"one of {names[0]}", *names[1:]]
        else:
            parts.append(describe(arg))
    if is_nullable(annotation):
        parts.append("null")
    return _listed(parts)


def _describe_list(annotation: Any, limits: dict[str, Any]) -> str:
    item = describe(get_args(annotation)[0])
    low, high = limits.get("min_length"), limits.get("max_length")
    count = "" if low is None or low != high else f"{low} "
    for singular, plural in _PLURALS.items():
        if item.startswith(singular) and " or a list" not in item:
            text = f"a list of {count}{item.replace(singular, plural, 1)}"
            return text + (f", at least {low} of them" if low and low != high else "")
    return f"a list of {count}values, each {item}"


def _limits(metadata: Sequence[Any]) -> dict[str, Any]:
    """gt, ge, lt, le, min_length and max_length as pydantic keeps them."""
    limits: dict[str, Any] = {}
    for entry in metadata:
        if isinstance(entry, FieldInfo):
            limits |= _limits(entry.metadata)
        for name in ("gt", "ge", "lt", "le", "min_length", "max_length"):
            if getattr(entry, name, None) is not None:
                limits[name] = getattr(entry, name)
    return limits


def _range(limits: dict[str, Any]) -> str:
    if limits.get("le") == MOST:  # of interest only where it is passed
        limits = {name: value for name, value in limits.items() if name != "le"}
    if "ge" in limits and "le" in limits:
        return f" from {limits['ge']} to {limits['le']}"
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    parts = [f"{word} {limits[name]}" for name, word in words.items() if name in limits]
    return f" {' and '.join(parts)}" if parts else ""


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _default(field: FieldInfo) -> str:
    """A field's default as YAML."""
    if field.default is PydanticUndefined:
        return "(required)"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        value = value.model_dump(mode="json")
    elif isinstance(value, list):
        value = [v.model_dump(mode="json") if isinstance(v, Section) else v for v in value]
    if isinstance(value, dict) or (
        isinstance(value, list) and value and isinstance(value[0], dict)
    ):
        return "{}" if not value else "(see below)"
    return dump({"v": value}).removeprefix("v:").strip()
