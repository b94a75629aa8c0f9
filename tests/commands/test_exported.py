"""The commands that take an exported model in place of a run, and what they write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from resdet.commands.eval_cls import eval_cls_command
from resdet.commands.eval_coco import eval_coco_command
from resdet.commands.predict import predict_command
from resdet.errors import UserError
from resdet.inference.predicting import Options
from tests.inference.handmade import write_classifier, write_detector
from tests.models import tiny_classifier, tiny_detector

BLANK = pytest.mark.usefixtures("blank_figures")


def test_predict(tmp_path: Path, nuclei: Path) -> None:
    path = write_detector(tmp_path / "cells.onnx")
    images = sorted((nuclei / "images").iterdir())[:2]
    out = tmp_path / "drawn"
    assert predict_command(run=path, inputs=images, out=out, options=Options(batch_size=2)) == 0
    records = json.loads((out / "detections.json").read_text())
    assert [(record["image_id"], record["category_id"]) for record in records] == [(1, 30), (2, 30)]
    assert len(list(out.glob("*.png"))) == 2
    with pytest.raises(UserError, match=r"leaves out what scores 0\.05 or less"):
        predict_command(run=path, inputs=images, out=out, options=Options(score_thresh=0.01))
    with pytest.raises(UserError, match="give it first, then the images"):
        predict_command(run=images[0], inputs=[path], out=out)


def test_predict_with_a_fixed_size_that_an_image_exceeds(tmp_path: Path, nuclei: Path) -> None:
    path = write_detector(tmp_path / "cells.onnx", batch=1, height=64, width=64)
    image = sorted((nuclei / "images").iterdir())[0]
    assert predict_command(run=path, inputs=[image], out=tmp_path / "drawn") == 1


@BLANK
def test_eval_coco(
    tmp_path: Path,
    nuclei: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    truth = json.loads((nuclei / "annotations" / "val.json").read_text())
    truth["images"] = truth["images"][:3]
    ids = {image["id"] for image in truth["images"]}
    truth["annotations"] = [each for each in truth["annotations"] if each["image_id"] in ids]
    (tmp_path / "val.json").write_text(json.dumps(truth))
    for image in truth["images"]:
        shutil.copy(nuclei / "images" / image["file_name"], tmp_path / "images")
    data = {"val": {"images": str(tmp_path / "images"), "annotations": str(tmp_path / "val.json")}}
    config = tiny_detector.VALUES
    config = config | {"data": config["data"] | data}
    names = [category["name"] for category in truth["categories"]]
    path = write_detector(
        tmp_path / "cells.onnx",
        config=config,
        class_names=[*names, "dirt"],
        category_ids=[7, 30],
    )
    result = eval_coco_command(run=path)
    assert result.summary["bbox"]["AP"] >= 0 and "segm" in result.summary
    folder = tmp_path / "runs" / f"eval_{tmp_path.name}_cells"
    assert (folder / "eval.json").is_file() and "0 of" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"model\.score_thresh was fixed when .*runs/tiny"):
        eval_coco_command(run=path, overrides=["model.score_thresh=0.2"])
    with pytest.raises(UserError, match="precision: bf16, and an exported model"):
        eval_coco_command(run=path, precision="bf16")
    without = write_detector(tmp_path / "bare.onnx", config=None)
    with pytest.raises(UserError, match=r"bare\.onnx: the description beside it has no config"):
        eval_coco_command(run=without)


@BLANK
def test_eval_cls(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ants", "bees"):
        (tmp_path / "val" / name).mkdir(parents=True)
        for image in sorted((shared_data / "hymenoptera_256" / "val" / name).iterdir())[:2]:
            shutil.copy(image, tmp_path / "val" / name)
    config = tiny_classifier.VALUES
    config = config | {"data": config["data"] | {"root": str(tmp_path)}}
    paths = [
        write_classifier(tmp_path / f"{name}.onnx", ["ants", "bees"], config=config, **more)
        for name, more in {"free": {}, "fixed": {"batch": 3}}.items()
    ]
    numbers = eval_cls_command(runs=paths, crops="10", ensemble=True)
    assert numbers[str(paths[0])]["num_images"] == 4
    assert numbers[str(paths[0])]["weights"] == str(paths[0])
    assert numbers["ensemble"]["top1_percent"] == numbers[str(paths[1])]["top1_percent"]
    assert (tmp_path / "runs" / f"eval_{tmp_path.name}_free" / "scores.npz").is_file()
    with pytest.raises(UserError, match="--crops dense needs images of other sizes"):
        eval_cls_command(runs=paths[:1], crops="dense")
    detector = write_detector(tmp_path / "cells.onnx")
    with pytest.raises(UserError, match=r"is an exported detector.*eval.coco"):
        eval_cls_command(runs=[detector])
    with pytest.raises(UserError, match=r"is an exported classifier.*eval.cls"):
        eval_coco_command(run=paths[0])
