"""Configs and overrides that would crash, hang or fill memory: one error each, with the place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from resdet.config.loading import ConfigError, load_any_config, load_config

BASE = "train: {max_steps: 3}\neval: {max_dets: [1, 10, 100]}\n"


def error_of(folder: Path, text: str, overrides: Sequence[str] = ()) -> str:
    (folder / "x.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_any_config(folder / "x.yaml", overrides)
    found = str(caught.value)
    assert len(found) < 1500, found
    return found


def aliases(inside: str) -> str:
    return "a0: &a0 [1, 2]\n" + "".join(
        f"a{i}: &a{i} " + inside.replace("*", f"*a{i - 1}") + "\n" for i in range(1, 30)
    )


FILES = {
    "aliases of lists": (aliases("[*, *, *, *]"), "values when its aliases are written out"),
    "aliases of mappings": (aliases("{a: *, b: *, c: *}"), "more than 3000 sections and lists"),
    "an alias of itself": ("a: &a [*a]\n", "contains itself"),
    "lists in lists": ("a: " + "[" * 200 + "]" * 200, "nested more than 50 deep"),
    "lists without an end": ("a: " + "[" * 3000, "nested more than 50 deep"),
    "mappings in mappings": (
        "".join("  " * i + f"a{i}:\n" for i in range(100)),
        "nested more than 50 deep",
    ),
    "many sections": ("".join(f"k{i}: []\n" for i in range(4000)), "more than 3000 sections"),
    "many keys": ("".join(f"k{i}: 1\n" for i in range(4000)), "and 3991 more"),
    "a number for _base_": ("_base_: 5\n", "_base_: expected a path or a list of paths, got 5"),
    "a mapping for _base_": ("_base_: {a: b}\n", "got {'a': 'b'} (x.yaml, line 1)"),
    "numbers in _base_": ("_base_: [5]\n", "a list of paths, got 5"),
    "surrogate in _base_": ('_base_: "\\uD800"\n', "_base_: has the character U+D800; remove it"),
    "surrogate": ('a: ["\\uDC00"]\n', "a.0: has the character U+DC00; remove it (x.yaml, line 1)"),
    "no character": ("a:\n  b: \0\n", "x.yaml, line 2: not valid YAML: the character U+0000"),
    "escaped": ('a: "\\0"\n', "a: has the character U+0000"),
    "long name": (f"_base_: {'a' * 300}\n", "_base_: no file"),
    "nobody's folder": ("_base_: ~nobody_here/x.yaml\n", "_base_: no file"),
    "thousands of digits": (
        "train: {max_steps: " + "9" * 5000 + "}",
        "train.max_steps: a number of 5000 characters is too large (x.yaml, line 1)",
    ),
    "hexadecimal digits": ("a: 0x" + "f" * 5000, "a number of 5002 characters is too large"),
    "exponent": ("optim: {lr: 1e30}", "optim.lr: 1e30 is too large"),
    "tag of a list": ("data: {classes: !names [a]}", "data.classes: tag !names is refused"),
    "tag of a set": ("data: {classes: !!set {a}}", "data.classes: tag tag:yaml.org,2002:set is"),
    "tag of another type": ("train: {seed: !!int abc}", "2002:int does not fit 'abc'"),
    "tag of nothing": ("train: !!null abc", "2002:null does not fit 'abc'"),
    "tag of code": ("a: !!python/object/apply:os.system [ls]", "os.system is refused"),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    text, words = FILES[name]
    assert words in error_of(tmp_path, text)


OVERRIDES = {
    "eval.max_dets.1.name=~": "eval.max_dets.1.name: eval.max_dets.1 is 10, which has no keys",
    "eval.max_dets.9=1": "the list has 3 items",
    f"train.{'9' * 3000}=1": "no key has 3006 characters",
    f"train.{'9' * 100}=1": "unknown key",
    f"{'.'.join('a' * 100)}=1": "no key has 100 parts",
    "train.max_steps.a=1": "train.max_steps: expected a whole number above 0",
    f"a={'[' * 3000}": "nested more than 50 deep",
    'data.train.images="\\0"': "data.train.images: has the character U+0000",
    f"train.batch_size={10**20}": "train.batch_size: 100000000000000000000 is too large",
    "train.batch_size=10000000000": "above 0 and at most 262144 or auto, got 10000000000",
    "train.max_steps=10000000000": "expected a whole number above 0 or null and at most 1000000000",
    "data.mask_size=1000000": "from 28 to 1024, got 1000000",
    "data.augment.resize.short_edges=[1]": "a list of whole numbers from 8 to 16384",
    "data.test_resize.short_edge=1": "from 8 to 16384, got 1",
    "data.workers=100000": "from 0 to 1024",
    "model.roi.num_samples=10000000": "above 0 and at most 1000000",
    "model.fpn.out_channels=1000000": "above 0 and at most 16384",
    "model.pixel_std=[1e-8, 1, 1]": "from 0.001 to 65535",
    "optim.milestones=[10000000000]": "whole numbers above 0 and at most 1000000000",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_overrides(tmp_path: Path, override: str) -> None:
    assert OVERRIDES[override] in error_of(tmp_path, BASE, [override])


def test_trees_and_chains_of_bases(tmp_path: Path) -> None:
    """Each file is read once, and none is changed by what is merged over it."""
    for i in range(12):
        bases = ", ".join([f"b{i - 1}.yaml"] * 6)
        (tmp_path / f"b{i}.yaml").write_text(
            f"_base_: [{bases}]\nlog: {{every: {i + 1}}}\n" if i else BASE
        )
    assert load_config(tmp_path / "b11.yaml").log.every == 12
    (tmp_path / "both.yaml").write_text("_base_: [b1.yaml, b2.yaml, b1.yaml]\n")
    assert load_config(tmp_path / "both.yaml").log.every == 2
    for i in range(40):
        (tmp_path / f"c{i}.yaml").write_text(f"_base_: c{i - 1}.yaml\n" if i else BASE)
    assert "through more than 30 files" in error_of(tmp_path, "_base_: c39.yaml\n")


def test_names_that_no_file_has(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    for name in ("loop.yaml", "a" * 300, "a\0b", "\ud800", "~nobody_here/x", ""):
        with pytest.raises(ConfigError):
            load_any_config(tmp_path / name)
    with pytest.raises(ConfigError):
        load_any_config("~nobody_here/x.yaml")


def test_text_that_is_not_unicode_in_plain_values() -> None:
    from resdet.config.loading import config_from_dict

    with pytest.raises(ConfigError, match="plain values only"):
        config_from_dict({"data": {"classes": ["\ud800"]}}, "w.pt")
