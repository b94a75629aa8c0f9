"""Changes to bytes, trees of JSON values and lines of text, drawn from a `random.Random`."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

HUGE = 10**400
SCALARS: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-300, 1e39, 1e308, float("inf"), float("-inf"),
    float("nan"), 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63),
    HUGE, -HUGE, "", " ", "0", "1", "1.0", "-1", "nan", "é", "e\u0301", "日本", "\ud800", "\udcff",
    "\x00", "\x1b[31mred", "a\nb", "\u202eabc", "=1+1", "../../x", "/etc/passwd", "a\\b", "%20",
    "http://host/x.jpg", "~", "x" * 300, "9" * 400, "1" * 5000,
]  # fmt: skip
CONTAINERS: list[Any] = [
    [], {}, [[]], [None], [0], [0, 0], [1, 2, 3, 4], [[1, 2, 3, 4]], [[[[1]]]], {"a": 1},
    {"size": [0, 0], "counts": []}, {"size": [2**32, 2**32], "counts": "1"},
    {"size": [4, 4], "counts": [16]}, {"counts": "0"},
]  # fmt: skip


def deep(depth: int, *, of_lists: bool) -> Any:
    """A value nested that deeply."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if of_lists else {"a": value}
    return value


def nasty(rng: random.Random) -> Any:
    """Any value that a file may have and should not."""
    kind = rng.random()
    if kind < 0.7:
        return rng.choice(SCALARS)
    if kind < 0.95:
        return copy.deepcopy(rng.choice(CONTAINERS))
    # copies of it within another one stay below the recursion limit of copying
    return deep(rng.choice([20, 90, 130]), of_lists=rng.random() < 0.5)


def mutate_tree(rng: random.Random, tree: Any, times: int | None = None) -> Any:
    """A copy of a tree of dicts and lists with one to four changes."""
    tree = copy.deepcopy(tree)
    for _ in range(times or rng.choice([1, 1, 1, 2, 3, 4])):
        tree = _change(rng, tree)
    return tree


def _change(rng: random.Random, tree: Any) -> Any:
    places = list(_places(tree))
    if not places:
        return nasty(rng)
    parent, key = rng.choice(places)
    # small numbers of entries first: otherwise nearly every change meets a coordinate
    for _ in range(3):
        if rng.random() < 0.4 and not isinstance(parent[key], dict | list):
            parent, key = rng.choice(places)
    match rng.randrange(10):
        case 0 | 1 | 2 | 3:
            parent[key] = nasty(rng)
        case 4:
            del parent[key]
        case 5 if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        case 5:
            parent[str(nasty(rng))[:50]] = parent.pop(key)
        case 6:
            other, place = rng.choice(places)
            parent[key] = copy.deepcopy(other[place])
        case 7:
            parent[key] = [parent[key]] if rng.random() < 0.5 else {"a": parent[key]}
        case 8:
            parent[key] = _nudged(rng, parent[key])
        case _:
            parent[key] = str(parent[key])
    return tree


def _nudged(rng: random.Random, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value[:1] if isinstance(value, str | list) else nasty(rng)
    if abs(value) == HUGE:  # no float
        return value + rng.choice([-1, 1])
    return rng.choice([-value, value + 1, value - 1, value * 1e10, value / 1000, float(value)])


def _places(tree: Any) -> Any:
    """(container, key) of every value in the tree."""
    stack = [tree]
    while stack:
        node = stack.pop()
        keys = range(len(node)) if isinstance(node, list) else list(node)
        for key in keys:
            yield node, key
            if isinstance(node[key], dict | list):
                stack.append(node[key])


def to_json(rng: random.Random, tree: Any) -> bytes:
    """JSON of a tree; sometimes the bytes are changed as well."""
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.7)
    data = text.encode("utf-8", "surrogatepass")
    match rng.randrange(20):
        case 0:
            return mutate_bytes(rng, data)
        case 1:
            return b"\xef\xbb\xbf" + data
        case 2:
            return text.encode("utf-16", "surrogatepass")
    return data


def mutate_bytes(rng: random.Random, data: bytes, times: int | None = None) -> bytes:
    """Bytes with one to eight changes: flipped, cut, repeated, overwritten."""
    changed = bytearray(data)
    for _ in range(times or rng.choice([1, 1, 2, 4, 8])):
        if not changed:
            return bytes(rng.randbytes(rng.randrange(20)))
        # headers decide more than pixels do
        span = len(changed) if rng.random() < 0.5 else min(len(changed), 200)
        at = rng.randrange(span)
        length = rng.choice([1, 1, 2, 4, 8, 64])
        match rng.randrange(8):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + length] = rng.randbytes(length)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length]
            case 4:
                del changed[at:]
            case 5:
                changed[at : at + length] = rng.choice([b"\x00", b"\xff", b"\x7f"]) * length
            case 6:
                number = rng.choice([0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1])
                order = rng.choice(["big", "little"])
                changed[at : at + 4] = number.to_bytes(4, order)
            case _:
                start = rng.randrange(len(changed))
                changed[at:at] = changed[start : start + 64]
    return bytes(changed)


YAML_VALUES = [
    "", "~", "null", "yes", "010", "1e4", "1e400", ".nan", ".inf", "-.inf", "0x10", "1_000",
    "2024-01-01",
    "9" * 400, "-1", "0", "1.5", "1000000000000000000000", "[]", "{}", "[[[[]]]]", "[1, 2", "{a: 1",
    "&a [*a, *a]", "*missing", "!!python/object/apply:os.system ['true']", "!!set {a, b}",
    "!!binary aGk=", "!!omap [a: 1]", "!custom x", "!!float x", "!!int '1'", '"\\uD800"', '"\\0"',
    "'unclosed", "|\n  text", ">-\n  text", "? a", "- a", "a: b: c", "\t1", "@x", "`x`", "%x",
    "<<: *a",
    "[" * 200 + "]" * 200, "{a: " * 150 + "1" + "}" * 150, "x" * 1000, "resnet9000",
    "../../etc/passwd",
]  # fmt: skip


ALIAS_BOMB = "k0: &k0 x\n" + "\n".join(
    f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]" for i in range(1, 10)
)


def mutate_yaml(rng: random.Random, text: str) -> bytes:
    """A YAML file with one to four lines changed, or some of its bytes."""
    lines = text.splitlines()
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(lines)) if lines else 0
        line = lines[at] if lines else ""
        key, colon, _ = line.partition(":")
        match rng.randrange(8):
            case 0 | 1 | 2 if colon:
                lines[at] = f"{key}: {rng.choice(YAML_VALUES)}"
            case 3:
                lines[at:at] = [line]
            case 4:
                del lines[at : at + 1]
            case 5:
                lines[at:at] = [rng.choice(["", " ", "    ", "\t"]) + line]
            case 6:
                lines.append(rng.choice(YAML_VALUES))
            case _:
                extra = ["_base_: " + rng.choice(YAML_VALUES), "imports: [os, 5]", ALIAS_BOMB]
                lines[at:at] = [rng.choice(extra)]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    return mutate_bytes(rng, data) if rng.random() < 0.15 else data
