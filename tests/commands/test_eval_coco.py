"""The command: what it prints, what it writes, and which combinations it refuses."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from resdet.commands.eval_coco import eval_coco_command
from resdet.errors import UserError
from resdet.evaluation.coco import evaluate_coco_full


@pytest.fixture
def files(shared_data: Path) -> dict[str, Path]:
    folder = shared_data / "voc2012_100" / "annotations"
    return {
        "detections": folder / "detections_real_model.json",
        "annotations": folder / "instances.json",
    }


def test_detections_by_files(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = eval_coco_command(**files, out=tmp_path / "out", max_dets=[1, 10, 50])
    written = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert list(written) == ["bbox", "tide", "calibration"]
    assert written["bbox"] == result.summary["bbox"] and len(written["bbox"]) == 12
    assert written["tide"]["bbox"]["AP50"] == pytest.approx(written["bbox"]["AP50"])
    with (tmp_path / "out" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert rows[14]["name"] == "person" and rows[14]["num_gt"] == "91"
    with Image.open(tmp_path / "out" / "pr_bbox.png") as picture:
        assert min(picture.size) > 400
    printed = capsys.readouterr().out
    assert "AR50" in printed and f"{result.summary['bbox']['AP']:.3f}" in printed
    assert "diningtable" in printed and str(tmp_path / "out") in printed
    assert not list((tmp_path / "out").glob(".*"))


def test_default_folder_is_beside_the_runs(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    eval_coco_command(**files)
    assert (tmp_path / "runs" / "eval_detections_real_model" / "eval.json").is_file()


def test_files_need_no_torch(files: dict[str, Path], tmp_path: Path, repo: Path) -> None:
    code = (
        "import sys; from resdet.commands.eval_coco import eval_coco_command as run; "
        "run(detections=sys.argv[1], annotations=sys.argv[2], out=sys.argv[3]); "
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *map(str, files.values()), str(tmp_path)]
    subprocess.run(command, check=True, cwd=repo, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give a run folder or checkpoint, or --detections"),
        ({"run": "runs/a", "detections": "b.json"}, "give a run folder or checkpoint, or"),
        ({"run": "runs/a", "annotations": "b.json"}, "data.val.annotations"),
        ({"detections": "b.json"}, "needs --annotations"),
        ({"detections": "b", "annotations": "c", "overrides": ["a=1"]}, "key=value needs a run"),
        ({"detections": "b", "annotations": "c", "device": "cpu"}, "--device needs a run"),
        ({"detections": "b", "annotations": "c", "precision": "fp32"}, "--precision needs a run"),
        ({"run": "a", "lvis": True, "max_dets": [1, 2, 3]}, "leave out --max-dets"),
    ],
)
def test_wrong_combinations(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        eval_coco_command(**arguments)


def test_unwritable_folder_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"--out .*taken: is a file; give a folder"):
        eval_coco_command(**files, out=tmp_path / "taken")


@pytest.fixture(scope="module")
def run_folder(repo: Path, nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best.pt of the demo's model with random weights, two nuclei images as its data.val."""
    import torch

    from resdet.config.loading import config_to_dict, load_config
    from resdet.factory import build_model
    from resdet.files import checkpoint

    folder = tmp_path_factory.mktemp("run")
    truth = json.loads((nuclei / "annotations" / "val.json").read_text())
    truth["images"] = truth["images"][:2]
    kept = {image["id"] for image in truth["images"]}
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in kept]
    (folder / "two.json").write_text(json.dumps(truth))
    config = load_config(
        repo / "configs" / "demo_nuclei.yaml",
        [
            f"data.val.images={nuclei / 'images'}",
            f"data.val.annotations={folder / 'two.json'}",
            "data.workers=0",
            "model.detections_per_image=20",
            "train.precision=fp32",
        ],
    )
    torch.manual_seed(0)
    names, ids = ([c[key] for c in truth["categories"]] for key in ("name", "id"))
    model = build_model(config, class_names=names, category_ids=ids)
    contents = {
        "format": checkpoint.FORMAT,
        "kind": "detector",
        "resdet_version": "0",
        "torch_version": str(torch.__version__),
        "config": config_to_dict(config),
        "class_names": names,
        "category_ids": ids,
        "step": 0,
        "model": model.state_dict(),
        "ema": None,
        "best": None,
    }
    checkpoint.save(folder / "best.pt", contents)
    return folder


def test_a_run_on_its_validation_data(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = eval_coco_command(run=run_folder, device="cpu")
    assert list(result.summary) == ["bbox", "segm"]
    assert "AR200" in result.summary["segm"], "the config's caps"
    written = json.loads((run_folder / "eval.json").read_text())
    assert {kind: written[kind] for kind in ("bbox", "segm")} == result.summary
    assert list(written["calibration"]) == ["bbox", "segm"]
    assert (run_folder / "pr_segm.png").is_file()
    printed = capsys.readouterr().out
    assert "validation loss" in printed and "loss_mask" in printed


@pytest.mark.parametrize(
    ("options", "empty"),
    [
        ([], True),
        (["test.flip=true", "test.scales=[64,96]", "test.merge=wbf"], False),
        (["test.refine=true"], False),
    ],
    ids=["empty outlines", "views", "refine"],
)
def test_boxes_of_a_mask_model_on_data_without_masks(
    run_folder: Path,
    tmp_path: Path,
    options: list[str],
    empty: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    truth = json.loads((run_folder / "two.json").read_text())
    for annotation in truth["annotations"]:
        del annotation["segmentation"]
        annotation.update({"segmentation": []} if empty else {})
    (tmp_path / "boxes.json").write_text(json.dumps(truth))
    small = ["data.test_resize.short_edge=64", "data.test_resize.max_size=64", *options]
    here = [*small, f"data.val.annotations={tmp_path / 'boxes.json'}"]

    def boxes(overrides: list[str], name: str) -> dict[str, Any]:
        out = tmp_path / name
        run = {"run": run_folder, "overrides": overrides, "device": "cpu", "out": out}
        return eval_coco_command(**run, kinds=["bbox"]).summary

    expected = boxes(small, "with")
    assert "loss_mask" in capsys.readouterr().out
    assert boxes(here, "without") == expected and list(expected) == ["bbox"]
    printed = capsys.readouterr().out
    assert "loss_box" in printed and "loss_mask" not in printed
    with pytest.raises(UserError, match=r"boxes.json: no object has .*\(--kinds bbox\)"):
        eval_coco_command(run=run_folder, overrides=here, device="cpu", out=tmp_path / "all")


def test_boxes_of_a_file_with_masks_on_data_without_masks(nuclei: Path, tmp_path: Path) -> None:
    truth = json.loads((nuclei / "annotations" / "val.json").read_text())
    annotations = truth["annotations"][:40]
    records = [
        {key: one[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
        | {"score": 1}
        for one in annotations
    ]
    bare = [{k: v for k, v in one.items() if k != "segmentation"} for one in annotations]
    (tmp_path / "boxes.json").write_text(json.dumps({**truth, "annotations": bare}))
    files = {"detections": tmp_path / "r.json", "annotations": tmp_path / "boxes.json"}
    for kept in (records, [{k: v for k, v in one.items() if k != "bbox"} for one in records]):
        files["detections"].write_text(json.dumps(kept))
        for kinds in (None, ["bbox"]):
            result = eval_coco_command(**files, kinds=kinds, out=tmp_path / "out")
            assert list(result.summary) == ["bbox"] and result.summary["bbox"]["AP50"] == 1
        with pytest.raises(UserError, match=r"boxes.json: no annotation has a segmentation"):
            eval_coco_command(**files, kinds=["segm"], out=tmp_path / "out")


def test_a_checkpoint_with_options(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = eval_coco_command(
        run=run_folder / "best.pt",
        overrides=["eval.val_loss=false", "eval.backend=fast"],
        kinds=["segm"],
        max_dets=[1, 5, 15],
        backend="pycocotools",
        device="cpu",
        out=tmp_path,
    )
    assert list(result.summary) == list(result.curves) == ["segm"]
    assert {row["kind"] for row in result.per_class} == {"segm"}
    assert "AR15" in result.summary["segm"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "eval.json",
        "per_class.csv",
        "predictions.npz",
        "pr_segm.png",
    }
    assert "validation loss" not in capsys.readouterr().out


def test_a_file_without_annotations_gives_detections(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As COCO's test-dev files are."""
    truth = json.loads((run_folder / "two.json").read_text())
    del truth["annotations"]
    (tmp_path / "test.json").write_text(json.dumps(truth))
    with caplog.at_level("INFO", logger="resdet"):
        result = eval_coco_command(
            run=run_folder,
            overrides=[f"data.val.annotations={tmp_path / 'test.json'}"],
            device="cpu",
            precision="bf16",
            out=tmp_path,
        )
    assert result.summary == {} and result.best is None
    assert "precision bf16" in caplog.text and "there are no metrics" in caplog.text
    records = json.loads((tmp_path / "detections.json").read_text())
    assert {record["image_id"] for record in records} == {i["id"] for i in truth["images"]}
    assert all(len(record["bbox"]) == 4 and record["segmentation"]["counts"] for record in records)


def test_strict_refuses_what_would_be_left_out(run_folder: Path, tmp_path: Path) -> None:
    truth = json.loads((run_folder / "two.json").read_text())
    truth["annotations"][0]["category_id"] = 99
    (tmp_path / "broken.json").write_text(json.dumps(truth))
    changes = [f"data.val.annotations={tmp_path / 'broken.json'}"]
    with pytest.raises(UserError, match="category_id 99"):
        eval_coco_command(run=run_folder, overrides=changes, device="cpu", strict=True)


def test_an_unknown_metric_is_named(run_folder: Path) -> None:
    with pytest.raises(UserError, match=r"'speed'.*coco, lvis"):
        eval_coco_command(run=run_folder, overrides=["eval.metric=speed"], device="cpu")


def test_kinds_that_a_run_does_not_find(run_folder: Path) -> None:
    with pytest.raises(UserError, match=r"kinds \['keypoints'\].*predicts bbox and segm"):
        eval_coco_command(run=run_folder, kinds=["keypoints"])


def test_a_model_of_more_classes_than_the_data(
    run_folder: Path, tmp_path: Path, nuclei: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Detections of the other classes are left out, and the data's labels become the model's."""
    import torch

    from resdet.engine.evaluate_detection import evaluate_run
    from resdet.inference.loading import load

    values = torch.load(run_folder / "best.pt", weights_only=True)
    values["class_names"] = ["mitochondrion", *values["class_names"]]
    values["category_ids"] = [7, 8]
    rows = {"cls_score": (2, 3), "bbox_pred": (4, 8), "predictor": (1, 2)}
    for key, value in values["model"].items():
        for name, (few, more) in rows.items():
            if f".{name}." in key and len(value) == few:
                # every class is as likely as the background
                values["model"][key] = torch.zeros(more, *value.shape[1:])
    torch.save(values, tmp_path / "two.pt")
    with caplog.at_level("INFO", logger="resdet"):
        _, found = evaluate_run(tmp_path / "two.pt", device="cpu")
    assert "1 of the model's 2 classes" in caplog.text and "mitochondrion" in caplog.text
    assert found.loss is not None and 0 < found.loss < 100
    truth = json.loads((run_folder / "two.json").read_text())
    [category] = truth["categories"]
    [row] = (row for row in found.result.per_class if row["kind"] == "bbox")
    assert row["category_id"] == category["id"]
    model = load(tmp_path / "two.pt", device="cpu")
    boxes = [model.predict(nuclei / "images" / image["file_name"]) for image in truth["images"]]
    assert row["num_detections"] == sum(int((one.labels == 1).sum()) for one in boxes)
    assert 0 < row["num_detections"] < sum(map(len, boxes))


def test_a_model_whose_classes_have_no_names(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A detector of another toolkit's layout is evaluated by the order of its classes."""
    from resdet.commands.convert import convert
    from resdet.engine.evaluate_detection import evaluate_run

    convert(str(run_folder), tmp_path / "two.pkl")
    data = [
        f"data.val.annotations={run_folder / 'two.json'}",
        f"data.val.images={load_values(run_folder)['images']}",
        "train.precision=fp32",
        "data.workers=0",
    ]
    with caplog.at_level("INFO", logger="resdet"):
        _, found = evaluate_run(tmp_path / "two.pkl", data, device="cpu")
    assert "taken by position" in caplog.text
    _, own = evaluate_run(run_folder, device="cpu")
    assert found.result.per_class == own.result.per_class


def load_values(run_folder: Path) -> dict[str, Any]:
    """The section data.val of the run's own config."""
    import torch

    return torch.load(run_folder / "best.pt", weights_only=True)["config"]["data"]["val"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_tables_on_a_terminal_and_elsewhere(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = evaluate_coco_full(files["annotations"], files["detections"])
    result.per_class[0]["name"] = "[red]plane"
    drawn, plain = Terminal(), io.StringIO()
    result.print_tables(drawn)
    result.print_tables(plain)
    for text in (drawn.getvalue(), plain.getvalue()):
        assert "[red]plane" in text, "a name is no markup"
        assert "0.348" in text and "kind" in text and "…" not in text
    assert "─" in drawn.getvalue() and "─" not in plain.getvalue()


def test_empty_result_is_written(tmp_path: Path) -> None:
    truth = {
        "images": [{"id": 1, "height": 9, "width": 9}],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}],
    }
    result = evaluate_coco_full(truth, [])
    assert result.best is None
    result.print_tables(io.StringIO())
    assert {path.name for path in result.write(tmp_path)} == {
        "eval.json",
        "per_class.csv",
        "pr_bbox.png",
    }
