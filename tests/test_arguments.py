"""Arguments of the Python API that are of another type, as notebooks give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resdet
from resdet.errors import UserError
from tests.models.tiny_detector import make_detector


@pytest.mark.parametrize("given", [None, 5, "", b"run", {}, [None], ["runs/a", 5]])
def test_load_takes_paths_and_names(given: Any) -> None:
    with pytest.raises(UserError, match=r"is not a model; give a run folder, a checkpoint"):
        resdet.load(given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test": ["flip"]}, r"test is \['flip'\]; give a dict of its keys"),
        ({"test": "flip"}, r"test is 'flip'; give a dict"),
        ({"imports": "my_module"}, r"imports is 'my_module'; give a list of names"),
        ({"imports": 5}, r"imports is 5; give a list of names"),
    ],
)
def test_load_takes_its_options(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resdet.load("runs/none", **arguments)


@pytest.mark.parametrize("call", [resdet.train, resdet.build])
def test_train_and_build_take_a_config_and_a_list(call: Any) -> None:
    for config in (5, {"task": "classification"}, [], b"own_data"):
        with pytest.raises(UserError, match=r"config is .*; give a YAML file or the name"):
            call(config)
    for overrides in ("optim.lr=1", 5, [5], {"optim.lr": 1}):
        with pytest.raises(UserError, match=r"overrides is .*; give a list of key=value"):
            call("own_data", overrides=overrides)


def test_none_is_no_overrides_and_no_modules(tmp_path: Path) -> None:
    """As callers give them that pass their own optional arguments on."""
    demo = resdet.build("demo_nuclei", None, None)
    assert demo.state_dict().keys() == resdet.build("demo_nuclei").state_dict().keys()
    for train in (None, ()):
        with pytest.raises(UserError, match=r"model\.weights, and that is null too"):
            resdet.train("finetune_det", train, imports=None, run_dir=tmp_path / "r", device="cpu")
    with pytest.raises(UserError, match="no such file or folder"):
        resdet.load(str(tmp_path / "none.pt"), None, None, None, test=None, imports=None)


def test_none_is_the_default_of_evaluation_and_drawing() -> None:
    image = {"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}
    truth = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    found = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}
    truth["annotations"] = [box]
    numbers = resdet.evaluate_coco(truth, [found], kinds=None, backend=None, max_dets=None)
    assert numbers == resdet.evaluate_coco(truth, [found])
    assert numbers["bbox"]["AP"] > 0.99
    pixels = np.zeros((32, 32, 3), np.uint8)
    model = make_detector()
    drawn = resdet.draw(pixels, model.predict(pixels), score_thresh=None, class_names=None)
    assert drawn == resdet.draw(pixels, model.predict(pixels))


@pytest.mark.parametrize("caps", [5, "1,10,100", [1, "x", 100], [1, None, 3]])
def test_limits_of_another_type(caps: Any) -> None:
    with pytest.raises(UserError, match=r"max_dets is .*; give three ascending numbers"):
        resdet.evaluate_coco({"images": [], "annotations": [], "categories": []}, [], max_dets=caps)


@pytest.mark.parametrize(
    ("option", "value"),
    [("score_thresh", "0.5"), ("score_thresh", [0.5]), ("batch_size", "4"), ("batch_size", 2.5)],
)
def test_predict_takes_numbers(option: str, value: Any) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(UserError, match=f"{option} is .*; give a"):
        make_detector().predict(image, **{option: value})


def test_predict_takes_numbers_of_numpy() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    options: dict[str, Any] = {"score_thresh": np.float32(0.99), "batch_size": np.int64(2)}
    assert len(make_detector().predict([image], **options)[0]) == 0


@pytest.mark.parametrize("truth", [None, 5, []])
def test_evaluation_takes_files_and_dicts(truth: Any) -> None:
    with pytest.raises(UserError, match=r"the ground truth is .*; give a file, several"):
        resdet.evaluate_coco(truth, [])


def test_a_folder_in_place_of_detections(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}
    truth = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    with pytest.raises(UserError, match=f"{tmp_path}: is a folder; give the file in it"):
        resdet.evaluate_coco(truth, tmp_path)
