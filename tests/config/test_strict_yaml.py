"""PyYAML's traps, each closed."""

from __future__ import annotations

import math

import pytest

from resdet.config.strict_yaml import ConfigError, dump, parse, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("1e4", 10000),
        ("1.5e3", 1500.0),
        ("010", 10),
        ("0x1F", 31),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("'8'", "8"),
        ("!!str 8", "8"),
        ("[1, no, {a: 1e-3}]", [1, "no", {"a": 1e-3}]),
        ("torchvision:resnet50.IMAGENET1K_V1", "torchvision:resnet50.IMAGENET1K_V1"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    read = parse_value(text, (), "here")
    assert read == value
    assert type(read) is type(value)


def test_every_key_knows_its_line():
    layer = parse("a: 1\nb:\n  c: [1,\n    2]\n  d: {e: 3}\n", "x.yaml")
    assert layer.values == {"a": 1, "b": {"c": [1, 2], "d": {"e": 3}}}
    assert layer.places[("b", "c")] == "x.yaml, line 3"
    assert layer.places[("b", "c", 1)] == "x.yaml, line 4"
    assert layer.places[("b", "d", "e")] == "x.yaml, line 5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {b: 1}\nc: 2\na: 3\n", "a: given twice (x.yaml, lines 1 and 3); keep one"),
        ("m:\n  b: 1\n  b: 2\n", "m.b: given twice (x.yaml, lines 2 and 3); keep one"),
        ("a: [1, 2\nb: 3\n", "x.yaml, line 2: not valid YAML"),
        ("a:\n\tb: 1\n", "indent with spaces, not tabs"),
        (
            'a: "C:\\photos"\n',
            "unknown escape character 'p'; write Windows paths with / or in single quotes",
        ),
        ('b: 1\na: "D:\\users"\n', "; write Windows paths with / or in single quotes"),
        ("- a\n- b\n", "x.yaml: a config is a mapping of keys to values"),
        ("just text", "x.yaml: a config is a mapping"),
        (
            "a: !!python/object:os.system {}\n",
            "python/object:os.system is refused (x.yaml, line 1)",
        ),
        ("a: !!timestamp 2024-01-01\n", "timestamp is refused (x.yaml, line 1)"),
        ("1: 2\n", "'1' is not a key: keys are words (x.yaml, line 1)"),
        ("? [a]\n: 2\n", "is not a key: keys are words (x.yaml, line 1)"),
        ("a: &x {b: *x}\n", "contains itself"),
        ("a: 1e999\n", "a: 1e999 is too large (x.yaml, line 1)"),
        ("a: 1\n---\nb: 2\n", "x.yaml, line 2: not valid YAML"),
    ],
)
def test_mistakes_name_the_line(text, message):
    with pytest.raises(ConfigError) as caught:
        parse(text, "x.yaml")
    assert message in str(caught.value)


def test_an_empty_file_is_an_empty_layer():
    assert parse("# nothing\n", "x.yaml").values == {}


def test_an_anchor_may_be_used_twice():
    assert parse("a: &x [1, 2]\nb: *x\n", "x.yaml").values == {"a": [1, 2], "b": [1, 2]}


def test_dump_reads_back_to_the_same_values():
    values = {
        "texts": ["1e-4", "no", "010", "null", "", "a: b", "é", "0x1F", "- x", "1e4", " padded "],
        "numbers": [1e-4, 1e-7, 0.1, 3, 1e22, -2.5],
        "nested": {"empty": {}, "none": None, "flag": True, "list": [{"a": [1, [2]]}, []]},
    }
    read = parse(dump(values), "x.yaml").values
    assert read == values
    assert all(type(a) is type(b) for a, b in zip(read["numbers"], values["numbers"], strict=True))
    assert all(math.isfinite(number) for number in read["numbers"])
