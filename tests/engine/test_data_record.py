"""What a resumed run accepts of its data: moved, but not changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resdet.config.loading import load_any_config, load_config
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.resumed import Resumed
from resdet.engine import data_record, detection
from resdet.engine.data_record import check_data, compare_processes, left_out_of
from resdet.engine.distributed import Processes
from resdet.engine.run_folder import open_run
from resdet.engine.setup import Training, prepare
from resdet.errors import UserError
from resdet.factory.detection_data import DataSets, build_data
from resdet.files import checkpoint
from resdet.files.findings import Finding
from tests.engine.cls_data import FOLDER_YAML, write_folders

COUNT = 4
ONE = Processes(0, 1, 1, torch.device("cpu"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with images/, train.json and val.json of other images."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("train", "val"):
        images, objects = [], []
        for k in range(COUNT):
            file = f"{name}{k}.png"
            pixels = rng.integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / file)
            images.append({"id": k + 1, "file_name": file, "height": 64, "width": 64})
            for x in (3, 30):
                square = [x, 5, x + 20, 5, x + 20, 25, x, 25]
                entry = {"id": len(objects) + 1, "image_id": k + 1, "category_id": 1 + (x > 9)}
                entry |= {"bbox": [x, 5, 20, 20], "segmentation": [square], "iscrowd": 0}
                objects.append({**entry, "area": 400})
        classes = [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}]
        content = {"images": images, "annotations": objects, "categories": classes}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def overrides(folder: Path) -> list[str]:
    return [
        *(f"data.{part}.images={folder}/images" for part in ("train", "val")),
        *(f"data.{part}.annotations={folder}/{part}.json" for part in ("train", "val")),
    ]


def load(tiny: Any, folder: Path, resumed: Resumed | None = None) -> DataSets:
    return build_data(load_config(tiny.config, overrides(folder)), resumed=resumed)


def state_of(tiny: Any, folder: Path, **others: Any) -> dict[str, Any]:
    return {"data": detection.record_of(load(tiny, folder)).state(), **others}


def change(folder: Path, how: Callable[[dict[str, Any]], Any], part: str = "train") -> None:
    path = folder / f"{part}.json"
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


def rename(content: dict[str, Any], folder: Path) -> None:
    (folder / "images" / "train1.png").rename(folder / "images" / "other.png")
    content["images"][1]["file_name"] = "other.png"


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a box": (
        lambda c: c["annotations"][3].update(bbox=[31, 5, 20, 20]),
        r"data\.train changed since .* other annotations of 1 image\(s\) \(image 2 \(train1\.png\)",
    ),
    "an outline": (
        lambda c: c["annotations"][0]["segmentation"][0].__setitem__(0, 4),
        r"other annotations of 1 image\(s\) \(image 1",
    ),
    "a class": (
        lambda c: c["annotations"][0].update(category_id=2),
        r"other annotations of 1 image\(s\) \(image 1",
    ),
    "an object more": (
        lambda c: c["annotations"].append({**c["annotations"][0], "id": 99}),
        r"other annotations of 1 image\(s\) \(image 1",
    ),
    "swapped categories": (
        lambda c: [c["categories"][0].update(name="nut"), c["categories"][1].update(name="bolt")],
        "other classes, or in another order",
    ),
    "an image less": (lambda c: c["images"].pop() and c["annotations"].__delitem__(slice(6, 8)),
                      r"4 images then, 3 now \(1 missing\)"),
    "the order": (lambda c: c["images"].reverse(), "the same images in another order"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_changed_training_data_are_named(tiny: Any, data: Path, what: str) -> None:
    how, words = CHANGES[what]
    state = state_of(tiny, data)
    check_data(state, detection.record_of(load(tiny, data)))
    change(data, how)
    with pytest.raises(UserError, match=words):
        check_data(state, detection.record_of(load(tiny, data)))


def test_changed_files_are_named(tiny: Any, data: Path) -> None:
    state = state_of(tiny, data)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(data / "images" / "train2.png")
    with pytest.raises(UserError, match=r"other files of 1 image\(s\) \(image 3 \(train2\.png\)\)"):
        check_data(state, detection.record_of(load(tiny, data)))
    change(data, lambda content: rename(content, data))
    with pytest.raises(UserError, match=r"other file names of 1 image\(s\) \(image 2"):
        check_data(state, detection.record_of(load(tiny, data)))


@pytest.mark.parametrize(
    "how",
    [
        lambda c: c["annotations"][0].update(bbox=[4, 5, 20, 20]),
        lambda c: c["annotations"][0].update(iscrowd=1),
        lambda c: c["annotations"][0].update(area=1),
    ],
)
def test_validation_data_have_their_own_line(tiny: Any, data: Path, how: Any) -> None:
    state = state_of(tiny, data)
    change(data, how, "val")
    with pytest.raises(UserError, match=r"^data\.val changed since .* \(image 1 \(val0\.png\)\)"):
        check_data(state, detection.record_of(load(tiny, data)))


def test_moved_data_and_other_annotation_ids_are_the_same(tiny: Any, data: Path) -> None:
    state = state_of(tiny, data)
    moved = data.with_name("elsewhere") / "deep"
    moved.parent.mkdir()
    data.rename(moved)
    change(moved, lambda c: [a.update(id=a["id"] + 500) for a in c["annotations"]])
    check_data(state, detection.record_of(load(tiny, moved)))


def test_an_image_left_out_while_training_may_be_corrected(
    tiny: Any, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = state_of(tiny, data, broken={"train": {2: "train2.png: truncated"}, "val": {}})

    def correct(content: dict[str, Any]) -> None:
        content["images"][2].update(height=48, width=60)

    Image.fromarray(np.zeros((48, 60, 3), np.uint8)).save(data / "images" / "train2.png")
    change(data, correct)
    with caplog.at_level(logging.INFO, "resdet"):
        check_data(state, detection.record_of(load(tiny, data)))
    assert "image 3 (train2.png)): left out as broken so far, changed since" in caplog.text
    # no other image may
    change(data, lambda c: c["annotations"][0].update(bbox=[4, 5, 20, 20]))
    with pytest.raises(UserError, match=r"other annotations of 1 image\(s\) \(image 1 "):
        check_data(state, detection.record_of(load(tiny, data)))


def test_an_image_left_out_at_the_start_stays_so(
    tiny: Any, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("train", "val"):
        change(data, lambda c: c["images"][1].update(height=63), part)
    state = state_of(tiny, data)
    for part in ("train", "val"):
        change(data, lambda c: c["images"][1].update(height=64), part)
    with pytest.raises(UserError, match=r"3 images then, 4 now \(new: 1 image\(s\) \(image 2"):
        check_data(state, detection.record_of(load(tiny, data)))
    resumed = Resumed(None, left_out_of(state))
    with caplog.at_level(logging.INFO, "resdet"):
        loaded = load(tiny, data, resumed)
    check_data(state, detection.record_of(loaded))
    assert "1 image(s) were left out when this run started" in caplog.text
    # and so in the run after the next one
    again = {"data": detection.record_of(loaded).state()}
    check_data(again, detection.record_of(load(tiny, data, Resumed(None, left_out_of(again)))))


def test_an_old_run_is_compared_by_its_own_rule(tiny: Any, data: Path) -> None:
    loaded = load(tiny, data)
    state = {"data": detection.old_digest(loaded.train)}
    # which did not cover objects
    change(data, CHANGES["a box"][0])
    check_data(state, detection.record_of(load(tiny, data)))
    change(data, CHANGES["the order"][0])
    with pytest.raises(UserError, match=r"data\.train changed since this run started: 4 images, "):
        check_data(state, detection.record_of(load(tiny, data)))


def begin(config: Path, folder: Path, given: list[str]) -> None:
    """A run folder as training leaves it before its first step."""
    training = prepare(open_run(load_any_config(config, given), folder), ONE, strict=False)
    folder.mkdir()
    checkpoint.save(folder / "last.pt", training.state())


def resume(folder: Path, *given: str) -> Training:
    return prepare(open_run(None, folder, resume=True, overrides=given), ONE, strict=False)


@pytest.mark.parametrize("data", [None, {}, {"sets": {"data.train": {}}, "others": {}}])
def test_a_damaged_record_is_an_error(data: object) -> None:
    with pytest.raises(UserError, match="its record of the data is damaged"):
        left_out_of({"data": data})


def test_a_run_resumes_on_moved_data_only(tiny: Any, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(tiny.config, run, overrides(data))
    assert checkpoint.load(run / "last.pt")["data"]["sets"].keys() == {"data.train", "data.val"}
    moved = data.rename(tmp_path / "moved")
    training = resume(run, *overrides(moved), "train.max_steps=6")
    assert training.config.data.train.annotations == f"{moved}/train.json"
    # a format that is named is no other data than one that is recognised
    resume(run, *overrides(moved), "data.train.format=coco")
    change(moved, lambda c: c["annotations"][0].update(bbox=[4, 5, 20, 20]), "val")
    with pytest.raises(UserError, match=r"data\.val changed since this run started"):
        resume(run, *overrides(moved))
    with pytest.raises(UserError, match=r"a JSON file, and data\.train\.format is voc"):
        resume(run, *overrides(moved), "data.train.format=voc")


def test_a_classifier_resumes_on_moved_data_only(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data")
    broken = root / "train/red/0.png"
    sound = broken.read_bytes()
    broken.write_bytes(b"no picture")
    config, run = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(FOLDER_YAML.format(root=root))
    begin(config, run, [])
    # repaired as the finding says, and moved
    broken.write_bytes(sound)
    moved = root.rename(tmp_path / "moved")
    paths = [f"data.{part}.root={moved}/{part}" for part in ("train", "val")]
    resume(run, *paths)
    (moved / "val/red/0.png").write_bytes(sound + b"0")
    with pytest.raises(UserError, match=r"data\.val changed since .*: other files of .*red/0\.png"):
        resume(run, *paths)


def test_a_teacher_and_proposals_are_compared(tiny: Any, data: Path) -> None:
    record = detection.record_of(load(tiny, data))
    record.others["loss.teacher"] = "1234"
    state = {"data": record.state()}
    record.others["loss.teacher"] = "5678"
    with pytest.raises(UserError, match=r"^loss\.teacher is not what this run started with; "):
        check_data(state, record)


def test_processes_with_different_data_stop(
    tiny: Any, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = detection.record_of(load(tiny, data))
    other = Finding("train.json", "image 7", "has no file", "it is left out")

    def gather(change: dict[str, str]) -> Callable[..., list[Any]]:
        return lambda own, _: [own, ("b", [f"{other.file}: 1× no file"], {**own[2], **change})]

    two = Processes(0, 2, 2, torch.device("cpu"))
    monkeypatch.setattr(data_record.distributed, "gather", gather({}))
    compare_processes(record, [], two)
    assert "process 1 (b): train.json: 1× no file" in caplog.text
    monkeypatch.setattr(data_record.distributed, "gather", gather({"data.train": "3 images, 0"}))
    with pytest.raises(UserError, match=r"data\.train is not the same .* 4 images.* 3 images"):
        compare_processes(record, [], two)


def test_names_of_a_data_set_are_those_of_its_rows(tiny: Any, data: Path) -> None:
    change(data, lambda c: c["annotations"].__delitem__(slice(0, 2)))
    train = load(tiny, data).train
    assert isinstance(train, DetectionDataset)
    assert [train.image_name(0), len(train)] == ["image 2 (train1.png)", COUNT - 1]
