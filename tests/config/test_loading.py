"""Bases, merging, overrides, the pair epochs / max_steps, and the way back to plain values."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from resdet.config import (
    ClassificationConfig,
    ConfigError,
    DetectionConfig,
    config_from_dict,
    config_to_dict,
    diff_configs,
    dump_yaml,
    load_any_config,
    load_config,
)
from resdet.config.loading import override_config


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a YAML file into the working folder and return its name."""
    monkeypatch.chdir(tmp_path)

    def _write(name: str, text: str) -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
        return name

    return _write


def error_of(path: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides or [])
    return str(caught.value)


def test_bases_merge_in_order_dicts_merge_and_lists_replace(write):
    write("parts/a.yaml", "optim: {lr: 0.1, milestones: [5, 6]}\nmodel: {fpn: {out_channels: 64}}")
    write("parts/b.yaml", "_base_: a.yaml\noptim: {lr: 0.2}\ntrain: {epochs: 2}")
    write("parts/c.yaml", "optim: {momentum: 0.5}")
    path = write("x.yaml", "_base_: [parts/b.yaml, parts/c.yaml]\noptim: {milestones: [7]}\n")
    config = load_config(path)
    assert (config.optim.lr, config.optim.momentum, config.optim.milestones) == (0.2, 0.5, [7])
    assert config.model.fpn.out_channels == 64


def test_a_circle_of_bases_is_named(write):
    write("a.yaml", "_base_: b.yaml")
    write("b.yaml", "_base_: a.yaml")
    assert error_of("a.yaml") == "_base_ files refer to each other: a.yaml → b.yaml → a.yaml"


def test_two_bases_may_share_a_third(write):
    write("root.yaml", "train: {epochs: 1}")
    write("a.yaml", "_base_: root.yaml\noptim: {lr: 0.3}")
    write("b.yaml", "_base_: root.yaml")
    assert load_config(write("x.yaml", "_base_: [a.yaml, b.yaml]")).optim.lr == 0.3


def test_a_missing_base_is_named_with_its_line(write):
    path = write("x.yaml", "train: {epochs: 1}\n_base_: parts/none.yaml")
    assert error_of(path) == "_base_: no file parts/none.yaml (x.yaml, line 2)"


def test_null_clears_a_section(write):
    write("a.yaml", "train: {epochs: 1}\noptim: {lr: 0.5}\nmodel: {roi: {mask_head: {norm: gn}}}")
    path = write("x.yaml", "_base_: a.yaml\noptim: null\nmodel: {roi: {mask_head: null}}")
    config = load_config(path)
    assert config.optim.lr == 0.02
    assert config.model.roi.mask_head is None
    again = load_config(path, ["model.roi.mask_head={}", "data.val=null"])
    assert again.model.roi.mask_head is not None
    assert again.model.roi.mask_head.norm == "none"
    assert again.data.val is None


def test_overrides_are_typed_like_the_file(write):
    path = write("x.yaml", "train: {epochs: 1}\nmodel: {roi: {stages: [{}, {}]}}")
    config = load_config(
        path,
        [
            "optim.lr=1e-4",
            "data.classes=[yes, 'no']",
            "train.compile=false",
            "model.roi.stages.1.foreground_iou=.6",
            "train.batch_size=010",
            "data.val={images: a, annotations: b}",
            "data.val.images=c=d",
            "optim.lr=2e-4",
        ],
    )
    assert config.optim.lr == 2e-4
    assert config.data.classes == ["yes", "no"]
    assert config.train.compile is False
    assert [stage.foreground_iou for stage in config.model.roi.stages] == [0.5, 0.6]
    assert config.train.batch_size == 10
    assert config.data.val is not None
    assert (config.data.val.images, config.data.val.annotations) == ("c=d", "b")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("optim.lr=", "override 'optim.lr=': no value; optim.lr=null clears it"),
        ("optim.lr", "override 'optim.lr': write key=value, such as optim.lr=0.01"),
        ("=3", "override '=3': write key=value"),
        ("optim..lr=3", "override 'optim..lr=3': write key=value"),
        ("optim.lr=[1", "override optim.lr=[1, line 1: not valid YAML"),
        ("optim.rl=3", "optim.rl: unknown key, did you mean lr? (override optim.rl=3)"),
        ("model.roi.stages.3.foreground_iou=1", "the list has 1 items, counted from 0"),
        ("model.roi.stages.foreground_iou=1", "model.roi.stages is a list; name a position"),
        ("optim.milestones.0=5", "no list in the config files to change one item of"),
    ],
)
def test_override_mistakes(write, override, text):
    path = write("x.yaml", "train: {epochs: 1}\nmodel: {roi: {stages: [{}]}}")
    assert text in error_of(path, [override])


def test_both_lengths_in_one_layer_are_refused(write):
    path = write("x.yaml", "train:\n  epochs: 3\n  max_steps: 10\n")
    assert error_of(path) == (
        "give train.epochs or train.max_steps, not both (x.yaml, line 2 and x.yaml, line 3)"
    )
    write("y.yaml", "train: {epochs: 3}")
    both = ["train.max_steps=1", "train.epochs=2"]
    assert "not both (override train.epochs=2 and override" in error_of("y.yaml", both)
    assert "not both" in error_of("y.yaml", ["train={epochs: 1, max_steps: 2}"])


def test_a_later_length_replaces_an_earlier_one_and_says_so(write, caplog):
    write("a.yaml", "train:\n  epochs: 3\n")
    path = write("x.yaml", "_base_: a.yaml\ntrain: {batch_size: 2}")
    with caplog.at_level(logging.INFO, logger="resdet"):
        config = load_config(path, ["train.max_steps=60"])
    assert (config.train.max_steps, config.train.epochs) == (60, None)
    assert config.train.batch_size == 2
    assert caplog.messages == [
        "train.max_steps=60 (override train.max_steps=60) replaces train.epochs=3 (a.yaml, line 2)"
    ]


def test_no_length_at_all_is_refused(write):
    text = error_of(write("x.yaml", "optim: {lr: 1}"))
    assert text == "give train.epochs or train.max_steps, one of them; neither is given (x.yaml)"


def test_plain_values_and_yaml_come_back_equal(write):
    path = write("x.yaml", "train: {epochs: 1}\ndata: {classes: ['no', '1e-4', '010', 'a: b', '']}")
    config = load_config(path, ["optim.weight_decay=1e-7", "data.val=null"])
    values = config_to_dict(config)
    assert config_from_dict(values, "last.pt") == config
    assert load_config(write("y.yaml", dump_yaml(config))) == config
    assert override_config(config, ["optim.lr=1"], "last.pt").optim.lr == 1

    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(item) for key, item in value.items())
        if isinstance(value, list):
            return all(plain(item) for item in value)
        return value is None or type(value) in (str, int, float, bool)

    assert plain(values)


def test_an_error_in_a_checkpoint_names_it():
    with pytest.raises(ConfigError, match=r"model\.fnp: unknown key, did you mean fpn\? \(last.pt"):
        config_from_dict({"train": {"epochs": 1}, "model": {"fnp": {}}}, "last.pt")
    with pytest.raises(ConfigError, match=r"last.pt: a config holds plain values only"):
        config_from_dict({"train": {"epochs": float("nan")}}, "last.pt")


def test_a_config_that_is_none_names_its_checkpoint():
    with pytest.raises(ConfigError, match=r"^last\.pt: its config is a int, not a mapping"):
        config_from_dict(5, "last.pt")


def test_differences_are_named_by_dotted_keys(write):
    path = write("x.yaml", "train: {epochs: 1}")
    old = load_config(path)
    assert diff_configs(old, load_config(path)) == []
    new = load_config(path, ["optim.lr=0.5", "data.val=null", "eval.max_dets=[1, 10, 200]"])
    assert [key for key, _, _ in diff_configs(old, new)] == [
        "data.val",
        "optim.lr",
        "eval.max_dets",
    ]
    assert ("optim.lr", 0.02, 0.5) in diff_configs(old, new)


def test_a_missing_file_brings_near_names(write):
    write("nuclei.yaml", "train: {epochs: 1}")
    assert (
        error_of("nucleii.yaml") == "nucleii.yaml: no such config file, did you mean nuclei.yaml?"
    )
    assert "demo_nuclei.yaml?" in error_of("configs/demo_nucleus.yaml")
    assert "the shipped ones are in" in error_of("zzz")
    Path("folder").mkdir()
    assert "is a folder, a config is a YAML file" in error_of("folder")
    Path("last.pt").write_bytes(b"PK")
    assert "to continue a run give --resume --run-dir FOLDER" in error_of("last.pt")
    for encoding, line in (("utf-16", 1), ("latin-1", 2)):
        Path("x.yaml").write_text("train: {epochs: 1}\n# möbel\n", encoding=encoding)
        assert error_of("x.yaml").startswith(f"x.yaml, line {line}: not UTF-8 text")
        assert error_of("x.yaml").endswith("; save the file as UTF-8")


def test_shipped_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    by_name = load_config("demo_nuclei")
    with caplog.at_level(logging.INFO, logger="resdet"):
        by_path = load_config("configs/demo_nuclei.yaml")
    assert isinstance(by_name, DetectionConfig)
    assert by_name == by_path
    assert "configs/demo_nuclei.yaml does not exist; using the included" in caplog.text


def test_a_base_may_be_a_shipped_config(write):
    path = write("mine.yaml", "_base_: configs/bccd.yaml\ntrain: {epochs: 3}")
    config = load_config(path)
    assert (config.train.epochs, config.model.backbone.name) == (3, "resnet18")


def test_a_config_is_frozen(write):
    config = load_config(write("x.yaml", "train: {epochs: 1}"))
    with pytest.raises(ValueError, match="frozen"):
        config.optim.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.nesterov=true", "optim.momentum=0"], "nesterov needs sgd with momentum"),
        (["optim.min_lr=1"], "min_lr 1.0 is above lr"),
        (["optim.schedule=plateau", "data.val=null"], "plateau drops the rate by validations"),
        (["optim.schedule=plateau", "eval.every=0"], "plateau drops the rate by validations"),
        (["loss.teacher_weight=0.9"], "need a teacher"),
        (["loss.bce_target_thresh=0.2"], "bce_target_thresh needs name bce"),
        (["optim.warmup_until_error_percent=80"], "give .1"),
        (["data.progressive=[[5, 96], [0, 128]]"], "by ascending epoch"),
    ],
)
def test_what_a_classifier_would_ignore_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config("imagenet_resnet18_tv1", overrides, schema=ClassificationConfig)


def test_the_task_picks_the_schema():
    assert isinstance(load_any_config("imagenet_resnet18_tv1"), ClassificationConfig)
    assert isinstance(load_any_config("demo_nuclei"), DetectionConfig)
    with pytest.raises(
        ConfigError, match=r"this config is for detection; run it with python tools/train_det"
    ):
        load_config("demo_nuclei", schema=ClassificationConfig)
    with pytest.raises(
        ConfigError, match="this config is for classification; run it with python tools/train_c"
    ):
        load_config("imagenet_resnet18_tv1")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("model.class_map={a: b}", "class_map names classes of model.weights"),
        ("model.roi.box_head={type: res5, num_fcs: 0, norm: gn}", "fpn: null; roi.box_head.norm"),
        ("model.roi={pooling: pool, sampling_ratio: 2}", "which only RoIAlign uses"),
    ],
)
def test_keys_that_would_do_nothing(given: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_config("demo_nuclei", [given])


def test_former_values_are_read_with_a_note(write, caplog):
    """config.yaml of a run that was made before train.compile=recorded was removed."""
    path = write("old.yaml", "train: {epochs: 1, compile: recorded}")
    with caplog.at_level("INFO", logger="resdet"):
        config = load_config(path)
    assert config.train.compile is True
    assert "train.compile=recorded" in caplog.text
    assert "line 1) is a former value; it is read as true" in caplog.text


def test_the_home_folder_in_data_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    values = ["~/images", "~/more"]
    config = load_config(
        "demo_nuclei",
        [
            f"data.train.images=[{', '.join(values)}]",
            "data.train.annotations=[~/a.json, /b.json]",
            "eval.blacklist=~nobody_here/list.txt",
        ],
    )
    assert config.data.train.images == [f"{tmp_path}/images", f"{tmp_path}/more"]
    assert config.data.train.annotations == [f"{tmp_path}/a.json", "/b.json"]
    assert config.data.val is not None
    assert config.eval.blacklist == "~nobody_here/list.txt"


def test_data_by_one_path(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    overrides = [f"data.train={tmp_path}/set", f"data.val={tmp_path}/set/data.yaml"]
    data = load_config("configs/own_data.yaml", overrides).data
    assert (data.train.images, data.train.annotations) == (f"{tmp_path}/set",) * 2
    assert data.val is not None
    assert (data.val.images, data.val.annotations) == (
        f"{tmp_path}/set",
        f"{tmp_path}/set/data.yaml",
    )
    assert data.train.format is None
    with pytest.raises(ConfigError, match="expected a section"):
        load_config("configs/own_data.yaml", ["data.train=''"])
    long = load_config("configs/own_data.yaml", [f"data.train={'a' * 5000}"]).data.train
    assert long.images == "."


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [], "annotations": []}',
        '{"info": {"year": 2020}, "licenses": [], "categories": [{"id": 1}]}',
        '\n {\n "annotations" :\n [{"bbox": [1, 2, 3, 4]}]}',
    ],
)
def test_annotations_are_no_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"train\.json: a file of annotations, not a config"):
        load_config(path)


def test_a_config_may_be_json(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    train = {"images": "images", "annotations": "train.json"}
    path.write_text(json.dumps({"data": {"train": train}, "train": {"max_steps": 1}}))
    assert load_config(path).data.train.annotations == "train.json"
