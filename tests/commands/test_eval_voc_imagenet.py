"""eval-voc and eval-imagenet: files in the official layouts, runs, and submissions."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from resdet.cli import main
from resdet.commands.eval_imagenet import eval_imagenet_command
from resdet.commands.eval_voc import eval_voc_command
from resdet.errors import UserError
from tests.data.layouts import LOC_NUMBERS, small_det, small_loc, small_voc, voc2012_100


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """VOC's layout of voc2012_100, and its detections."""
    voc = voc2012_100(shared_data, tmp_path_factory.mktemp("VOCdevkit"))
    records = shared_data / "voc2012_100" / "annotations" / "detections_real_model.json"
    images = json.loads((records.parent / "instances.json").read_text())["images"]
    stems = {image["id"]: Path(image["file_name"]).stem for image in images}
    own = [
        record | {"image_id": stems[record["image_id"]]}
        for record in json.loads(records.read_text())
    ]
    path = voc.parent / "records.json"
    path.write_text(json.dumps(own))
    return {"list": voc / "ImageSets" / "Main" / "test.txt", "records": path}


def test_voc_layout_and_files(
    real: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["eval-voc", "--detections", str(real["records"]), "--annotations", str(real["list"])]
    assert main([*argv, "--submission", "--out", str(out)]) == 0
    assert json.loads((out / "eval.json").read_text())["mAP"] == pytest.approx(0.607550, abs=5e-7)
    files = "eval.json, per_class.csv, pr_voc12.png, pr_voc12_classes.png, voc_results.tar.gz"
    assert files in capsys.readouterr().out
    with tarfile.open(out / "voc_results.tar.gz") as archive:
        names = archive.getnames()
        archive.extractall(out, filter="data")
    assert len(names) == 20
    assert "results/VOC2012/Main/comp4_det_test_tvmonitor.txt" in names
    for detections in (out / "voc_results.tar.gz", out / "results"):
        result = eval_voc_command(
            detections=detections, annotations=real["list"], year=2007, out=tmp_path / "again"
        )
        assert result.summary["mAP"] == pytest.approx(0.601109, abs=5e-7)
        assert not result.notes


def test_voc_test_images_without_annotations(tmp_path: Path) -> None:
    voc = small_voc(tmp_path / "VOCdevkit", year="VOC2007")
    names = (voc / "ImageSets" / "Main" / "test.txt").read_text().split()
    for path in (voc / "Annotations").iterdir():
        path.unlink()
    results = tmp_path / "results"
    results.mkdir()
    (results / "comp4_det_test_dog.txt").write_text(f"{names[0]} 0.5 1 1 20 20\n")
    result = eval_voc_command(
        detections=results,
        annotations=voc / "ImageSets" / "Main" / "test.txt",
        submission=True,
        out=tmp_path / "out",
    )
    assert result.summary == {} and "no annotations" in result.notes[-1]
    with tarfile.open(tmp_path / "out" / "voc_results.tar.gz") as archive:
        member = archive.extractfile("results/VOC2007/Main/comp4_det_test_dog.txt")
        assert member is not None
        assert member.read().decode() == f"{names[0]} 0.5 1.000 1.000 20.000 20.000\n"


def test_det_layout_and_files(tmp_path: Path) -> None:
    folder = small_det(tmp_path)
    lists = folder / "ImageSets" / "DET"
    # val2 holds images 4 and 2 of val.txt, whose numbers the files have
    (tmp_path / "det.txt").write_text("4 1 0.9 0 0 9 9\n2 58 0.8 0 0 9 9\n")
    (tmp_path / "black.txt").write_text("4 n02672831\n1 n02691156\n")
    files: dict[str, Any] = {
        "task": "det",
        "detections": tmp_path / "det.txt",
        "annotations": lists / "val2.txt",
        "out": tmp_path / "out",
    }
    result = eval_imagenet_command(**files, blacklist=tmp_path / "black.txt", submission=True)
    assert "1 pairs of image and class are on the blacklist" in result.notes[0]
    assert len(result.per_class) == 200
    written = (tmp_path / "out" / "det_predictions.txt").read_text().split("\n")
    assert [line.split()[0] for line in written[:-1]] == ["2", "4"]
    (tmp_path / "det.txt").write_text("1 1 0.9 0 0 9 9\n")
    with pytest.raises(UserError, match=r"det\.txt: line 1: image 1 is not in .*val2\.txt"):
        eval_imagenet_command(**files)


@pytest.mark.parametrize("truth", ["validation_ground_truth", "map_clsloc", None])
def test_loc_layout_and_files(tmp_path: Path, truth: str | None) -> None:
    folder = small_loc(tmp_path)
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    given = {
        "validation_ground_truth": kit / "ILSVRC2012_validation_ground_truth.txt",
        "map_clsloc": kit / "map_clsloc.txt",
        None: None,
    }[truth]
    own = (kit / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
    if truth is None:  # category ids count the sorted wnids
        ranks = {str(LOC_NUMBERS[w]): str(i) for i, w in enumerate(sorted(LOC_NUMBERS), 1)}
        own = [ranks[number] for number in own]
    lines = [f"{number} 0 0 99 79 " * (1 + i % 2) for i, number in enumerate(own)]
    (tmp_path / "loc.txt").write_text("\n".join(lines) + "\n")
    files: dict[str, Any] = {
        "task": "loc",
        "annotations": folder / "Annotations" / "CLS-LOC" / "val",
        "ground_truth": given,
        "out": tmp_path / "out",
    }
    result = eval_imagenet_command(**files, detections=tmp_path / "loc.txt", submission=True)
    assert result.summary["cls_error_percent"] == 0 and result.summary["num_images"] == 6
    again = eval_imagenet_command(**files, detections=tmp_path / "out" / "loc_predictions.txt")
    assert again.summary == result.summary
    written = (tmp_path / "out" / "loc_predictions.txt").read_text().split("\n")
    assert [line.split()[0] for line in written[:-1]] == own
    table = (tmp_path / "out" / "loc_kaggle.csv").read_text().split("\n")
    wnid = {str(number): wnid for wnid, number in LOC_NUMBERS.items()}
    if truth is not None:
        box = f"{wnid[own[1]]} 0 0 99 79"
        assert table[:3][::2] == [
            "ImageId,PredictionString",
            f"ILSVRC2012_val_00000002,{box} {box}",
        ]
    (tmp_path / "banned.txt").write_text("2\n5\n")
    result = eval_imagenet_command(
        **files, detections=tmp_path / "loc.txt", blacklist=tmp_path / "banned.txt"
    )
    assert result.summary["num_blacklisted"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "det", "detections": "a", "annotations": "b", "ground_truth": "c"}, "--task loc"),
        ({"task": "loc", "run": "a", "ground_truth": "c"}, "or add --submission"),
        ({"task": "det", "run": "a", "annotations": "b"}, "--annotations needs --detections"),
        ({"task": "det", "run": "a", "format": "b"}, "--format needs --detections"),
        ({"task": "loc"}, "give a run folder or checkpoint, or --detections"),
        ({"task": "loc", "detections": "a"}, "--detections needs --annotations"),
        ({"task": "loc", "detections": "a", "annotations": "b", "device": "cpu"}, "--device needs"),
    ],
)
def test_wrong_combinations(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        eval_imagenet_command(**arguments)


def test_strict_refuses_what_would_be_left_out(tmp_path: Path) -> None:
    folder = small_det(tmp_path)
    with pytest.raises(UserError, match="is a folder; give a file in it"):
        eval_imagenet_command(
            task="det",
            detections=tmp_path,
            annotations=folder / "ImageSets" / "DET" / "val2.txt",
        )
    (tmp_path / "det.txt").write_text("4 1 0.9 9 9 0 0\n")
    with pytest.raises(UserError, match="1 boxes have a negative size and match nothing"):
        eval_imagenet_command(
            task="det",
            detections=tmp_path / "det.txt",
            annotations=folder / "ImageSets" / "DET" / "val2.txt",
            strict=True,
        )


def test_two_lists_have_no_submission_and_keep_their_result(tmp_path: Path) -> None:
    lists = [
        small_voc(tmp_path / "VOCdevkit", year=year, count=3) / "ImageSets" / "Main" / "test.txt"
        for year in ("VOC2007", "VOC2012")
    ]
    (tmp_path / "comp4_det_test_dog.txt").write_text("")
    files = {"detections": tmp_path / "comp4_det_test_dog.txt", "annotations": lists}
    with pytest.raises(UserError, match="are several lists"):
        eval_voc_command(**files, submission=True, out=tmp_path / "out")  # type: ignore[arg-type]
    assert "mAP" in json.loads((tmp_path / "out" / "eval.json").read_text())
    with pytest.raises(UserError, match=r"--out .*dog\.txt: is a file; give a folder"):
        eval_voc_command(**files, out=tmp_path / "comp4_det_test_dog.txt")  # type: ignore[arg-type]
    files["annotations"] = [lists[0], lists[0]]
    with pytest.raises(UserError, match="it is given twice"):
        eval_voc_command(**files, out=tmp_path / "out")  # type: ignore[arg-type]
