"""YAML read without its traps, and the file and line of every key.

The scalars are those of YAML 1.2's core schema: `1e-4` is a number, `no` and `on` are strings, and
`010` is ten; a key given twice is an error. PyYAML reads YAML 1.1, where none of this holds.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from resdet.errors import UserError

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the root of a config to one value."""


class ConfigError(UserError):
    """A mistake in a config or an override; the text names the key, the place and the remedy."""


@dataclass
class Layer:
    """The content of one file, or of a command's overrides, not yet checked against the schema."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    """Where each key is, such as "configs/x.yaml, line 12"."""
    name: str = ""
    """The file or "the overrides", for messages."""
    num_values: int = 0
    """Values read so far."""
    num_sections: int = 0
    """Keys among them that hold mappings or lists."""


HINTS = {
    "'\\t'": "; indent with spaces, not tabs",
    "escape character": "; write Windows paths with / or in single quotes",
    "expected escape sequence": "; write Windows paths with / or in single quotes",
}
"""Remedies, by what a problem's text contains."""

MAX_NESTED = 50
"""How deep a config may be nested."""
MAX_VALUES = 200_000
"""How many values a file may have, those of an anchor counted wherever it is used."""
MAX_SECTIONS = 3000
"""How many keys of a file may hold mappings or lists."""
MAX_INTEGER = 1 << 63

_TAG = "tag:yaml.org,2002:"
_SCALARS = [
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    (
        "float",
        re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
        list("-+.0123456789"),
    ),
]
_WHOLE_EXPONENT = re.compile(r"^[-+]?[0-9]+[eE]\+?[0-9]{1,2}$")


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """First character → the scalars it may start, in PyYAML's form."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, pattern, starts in _SCALARS:
        for start in starts:
            table.setdefault(start, []).append((_TAG + name, pattern))
    return table


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()


class _Dumper(yaml.SafeDumper):
    """Quotes whatever `_Loader` would read as something other than text."""

    yaml_implicit_resolvers = _resolvers()

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: _Dumper, values: list[Any]) -> yaml.Node:
    flat = not any(isinstance(value, (list, dict)) for value in values)
    return dumper.represent_sequence(_TAG + "seq", values, flow_style=flat)


_Dumper.add_representer(list, _represent_list)


def dump(values: dict[str, Any]) -> str:
    """YAML text that `parse` reads back to the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def parse(text: str, name: str) -> Layer:
    """The values and places of a YAML file's text; `name` is what messages call the file.

    Raises ConfigError for what is not YAML, for a key given twice, and for a file that is not a
    mapping.
    """
    node = _compose(text, name)
    layer = Layer(name=name)
    if node is None:
        return layer
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{name}: a config is a mapping of keys to values, such as `train:`")
    layer.values = _mapping(node, (), layer, [])
    return layer


def parse_value(text: str, path: KeyPath, place: str) -> Any:
    """The value of a key as YAML, typed as in a file: for `key=value` on the command line."""
    node = _compose(text, place)
    return None if node is None else _value(node, path, Layer(name=place), [])


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except RecursionError:
        raise ConfigError(f"{name}: is nested more than {MAX_NESTED} deep; write it flat") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        raise ConfigError(
            f"{name}, line {1 + before.count(chr(10))}: not valid YAML: the character "
            f"U+{ord(text[error.position]):04X} is not allowed; remove it"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        hint = next((text for key, text in HINTS.items() if key in str(error.problem)), "")
        raise ConfigError(f"{name}{line}: not valid YAML: {error.problem}{hint}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from None


def _place(node: yaml.Node, layer: Layer) -> str:
    return f"{layer.name}, line {node.start_mark.line + 1}"


def _value(node: yaml.Node, path: KeyPath, layer: Layer, parents: list[yaml.Node]) -> Any:
    """The plain value of a node; fills `layer.places` for what is inside."""
    layer.num_values += 1
    if any(node is parent for parent in parents):
        raise ConfigError(f"{_dotted(path)}: contains itself ({_place(node, layer)})")
    if len(parents) > MAX_NESTED:
        raise ConfigError(
            f"{_dotted(path[:3])}…: is nested more than {MAX_NESTED} deep ({_place(node, layer)})"
        )
    if layer.num_values > MAX_VALUES:
        raise ConfigError(
            f"{_dotted(path)}: the file has more than {MAX_VALUES} values when its aliases are "
            f"written out ({_place(node, layer)}); use fewer of them"
        )
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, layer, parents)
    if isinstance(node, yaml.SequenceNode):
        if node.tag != _TAG + "seq":
            raise ConfigError(f"{_dotted(path)}: tag {node.tag} is refused ({_place(node, layer)})")
        for position, item in enumerate(node.value):
            layer.places[(*path, position)] = _place(item, layer)
        return [
            _value(item, (*path, position), layer, [*parents, node])
            for position, item in enumerate(node.value)
        ]
    return _scalar(node, path, layer)


def _mapping(
    node: yaml.MappingNode, path: KeyPath, layer: Layer, parents: list[yaml.Node]
) -> dict[str, Any]:
    if node.tag != _TAG + "map":
        raise ConfigError(f"{_dotted(path)}: tag {node.tag} is refused ({_place(node, layer)})")
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = _scalar(key_node, path, layer) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            text = getattr(key_node, "value", "")
            raise ConfigError(f"{text!r} is not a key: keys are words ({_place(key_node, layer)})")
        line = key_node.start_mark.line + 1
        key_path = (*path, key)
        if key in lines:
            raise ConfigError(
                f"{_dotted(key_path)}: given twice ({layer.name}, lines {lines[key]} and {line}); "
                f"keep one"
            )
        lines[key] = line
        layer.num_sections += not isinstance(value_node, yaml.ScalarNode)
        if layer.num_sections > MAX_SECTIONS:
            raise ConfigError(
                f"{_dotted(key_path)}: the file has more than {MAX_SECTIONS} sections and lists "
                f"({_place(key_node, layer)}); is it a config?"
            )
        layer.places[key_path] = f"{layer.name}, line {line}"
        values[key] = _value(value_node, key_path, layer, [*parents, node])
    return values


def _scalar(node: yaml.Node, path: KeyPath, layer: Layer) -> Any:
    text, kind, place = node.value, node.tag.removeprefix(_TAG), _place(node, layer)
    pattern = next((pattern for name, pattern, _ in _SCALARS if name == kind), None)
    if kind != "str" and (pattern is None or not pattern.match(text)):
        what = "is refused" if pattern is None else f"does not fit {text[:40]!r}"
        raise ConfigError(f"{_dotted(path)}: tag {node.tag} {what} ({place})")
    match kind:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" | "float":
            return _number(text, kind, _dotted(path), place)
    if refused := re.search(r"[\0\ud800-\udfff]", text):
        character = f"U+{ord(refused.group()):04X}"
        raise ConfigError(f"{_dotted(path)}: has the character {character}; remove it ({place})")
    return text


def _number(text: str, kind: str, key: str, place: str) -> int | float:
    is_hexadecimal = text.lower().startswith("0x")
    number: int | float = math.inf
    if kind == "int":
        if len(text) < 40:  # Python refuses thousands of digits
            number = int(text, 16) if is_hexadecimal else int(text)
    else:
        number = float(text)
        # 1e4 is whole, so that it suits a count of steps; with a point it is a float
        if _WHOLE_EXPONENT.match(text):
            number = int(number)
    is_whole = isinstance(number, int)
    if not math.isfinite(number) or (is_whole and not -MAX_INTEGER <= number < MAX_INTEGER):
        shown = text if len(text) <= 40 else f"a number of {len(text)} characters"
        raise ConfigError(f"{key}: {shown} is too large ({place})")
    return number


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path) or "the config"
