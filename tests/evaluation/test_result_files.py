"""The benchmarks' result files: reading, writing, and what is said about malformed ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.errors import UserError
from resdet.evaluation.imagenet_det import evaluate_det
from resdet.evaluation.imagenet_files import (
    class_numbers,
    read_det_blacklist,
    read_det_predictions,
    read_loc_blacklist,
    read_loc_predictions,
    write_det_predictions,
    write_loc_predictions,
)
from resdet.evaluation.imagenet_loc import evaluate_loc, localize
from resdet.evaluation.inclusive import PixelDetections
from resdet.evaluation.voc import evaluate_voc
from resdet.evaluation.voc_files import read_voc_results, write_voc_results
from tests.evaluation.devkit_tables import table_of, write_det, write_voc
from tests.evaluation.ilsvrc_reference import flat_table
from tests.fixtures.devkit_cases import Case, det_case, voc_case

CASE = voc_case(7)
TRUTH = table_of(CASE, 1)
DET = det_case(7)
DET_TRUTH = table_of(DET, 0)
LOC_TRUTH = flat_table(
    np.array([1, 2, 3]),
    ["cat", "dog"],
    np.array([0, 1, 1, 2]),
    np.array([[0.0, 0, 10, 10], [5, 5, 20, 20], [50, 50, 10, 10], [0, 0, 9, 9]]),
    np.array([0, 1, 1, 0]),
)


def same(one: PixelDetections, other: PixelDetections) -> None:
    for name in ("images", "labels", "scores", "corners"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_voc_files_survive_writing(tmp_path: Path) -> None:
    read = read_voc_results(write_voc(CASE, tmp_path / "plain"), TRUTH)
    assert read.base == 1 and len(read.scores) == len(CASE.detections) > 10
    archive = tmp_path / "voc.tar.gz"
    write_voc_results(archive, TRUTH, read, year=2012, subset="val")
    same(read_voc_results(archive, TRUTH), read)
    # from 0, as a model's detections may be: the file is the same
    shifted = PixelDetections(read.images, read.labels, read.scores, read.corners - 1, 0)
    write_voc_results(archive, TRUTH, shifted, year=2012, subset="val")
    same(read_voc_results(archive, TRUTH), read)


def test_one_voc_file_leaves_the_other_classes_without_detections(tmp_path: Path) -> None:
    folder = write_voc(CASE, tmp_path / "all")
    read = read_voc_results(folder / "comp4_det_test_cat.txt", TRUTH)
    assert set(read.labels.tolist()) == {0}
    assert "no file for 2 classes" in read.notes[0] and "'dog', 'tree'" in read.notes[0]
    (folder / "comp4_det_test_cow.txt").write_text("")
    assert (
        "classes that ground truth lacks are left out: 'cow'"
        in (read_voc_results(folder, TRUTH).notes[0])
    )


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".bz2", bz2.compress),
        ("", bytes),
    ],
)
def test_packed_files(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    plain = write_det(DET, tmp_path / "det.txt")
    packed = tmp_path / f"packed.txt{suffix}"
    packed.write_bytes(pack(plain.read_bytes()))
    same(read_det_predictions(packed, DET_TRUTH), read_det_predictions(plain, DET_TRUTH))


def test_zip_archives(tmp_path: Path) -> None:
    folder = write_voc(CASE, tmp_path / "plain")
    with zipfile.ZipFile(tmp_path / "voc.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"results/VOC2007/Main/{path.name}")
    same(read_voc_results(tmp_path / "voc.zip", TRUTH), read_voc_results(folder, TRUTH))
    plain = write_det(DET, tmp_path / "det.txt")
    with zipfile.ZipFile(tmp_path / "det.zip", "w") as archive:
        archive.write(plain, "det.txt")
    same(
        read_det_predictions(tmp_path / "det.zip", DET_TRUTH),
        read_det_predictions(plain, DET_TRUTH),
    )


def test_a_damaged_archive_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "voc.tar.gz"
    path.write_text("no archive")
    with pytest.raises(UserError, match=r"cannot be unpacked \(.*\); pack it again$") as caught:
        read_voc_results(path, TRUTH)
    assert "\n" not in str(caught.value)


def test_det_files_survive_writing(tmp_path: Path) -> None:
    read = read_det_predictions(write_det(DET, tmp_path / "det.txt"), DET_TRUTH)
    path = write_det_predictions(tmp_path / "again.txt", DET_TRUTH, read)
    again = read_det_predictions(path, DET_TRUTH)
    numbers = [int(line.split()[0]) for line in path.read_text().splitlines()]
    assert numbers == sorted(numbers) and len(numbers) == len(DET.detections)
    one, other = (evaluate_det(DET_TRUTH, each).summary for each in (read, again))
    assert one == other


def test_loc_files_survive_writing(tmp_path: Path) -> None:
    path = tmp_path / "loc.txt"
    path.write_text("2 0 0 9 9 1 0 0 9 9\n0 0 0 0 0 2 5 5 24 24\n1 0 0 3 3\n")
    read = read_loc_predictions(path, LOC_TRUTH)
    judged = localize(LOC_TRUTH, read)
    assert judged.localized[:, 0].tolist() == [False, False, False], "a 0 keeps its place"
    assert judged.localized[:, 4].tolist() == [True, True, False]
    assert judged.classified[:, 0].tolist() == [False, False, True]
    same(read_loc_predictions(write_loc_predictions(path, LOC_TRUTH, read), LOC_TRUTH), read)
    result = evaluate_loc(LOC_TRUTH, read, np.array([True, False, False]))
    assert result.summary["loc_error_percent"] == 50.0
    assert result.summary["cls_error_percent"] == 0.0
    assert result.best == ("localization %", 50.0)


def test_the_devkit_numbers_classes_in_its_own_order(tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("900\n17\n900\n")
    numbers = class_numbers(tmp_path / "truth.txt", LOC_TRUTH)
    assert {n: label for n, label in numbers.items() if label >= 0} == {900: 0, 17: 1}
    assert len(numbers) == 1000, "a guess of another class is wrong, and no mistake in the file"
    (tmp_path / "loc.txt").write_text("900 0 0 9 9\n17 5 5 24 24\n17 0 0 8 8\n")
    read = read_loc_predictions(tmp_path / "loc.txt", LOC_TRUTH, numbers)
    assert localize(LOC_TRUTH, read).error() == 1 / 3
    back = {label: number for number, label in numbers.items() if label >= 0}
    path = write_loc_predictions(tmp_path / "out.txt", LOC_TRUTH, read, back)
    assert path.read_text().split("\n")[1].startswith("17 5.000")
    for text, message in (
        ("900\n17\n17\n", "line 3: class 17 is cat"),
        ("900\n17\n", "2 lines, and generated has an image 3"),
        ("900\n17\n16\n", "several class numbers stand for one class"),
    ):
        (tmp_path / "truth.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            class_numbers(tmp_path / "truth.txt", LOC_TRUTH)


def test_blacklists(tmp_path: Path) -> None:
    path = tmp_path / "black.txt"
    image = DET.image_ids[0]
    path.write_text(f"{image} n00000002\n{image} 3\n123456 n00000002\n")
    assert read_det_blacklist(path, DET_TRUTH).tolist() == [[0, 1], [0, 2]]
    path.write_text(f"{image} n09999999\n")
    with pytest.raises(UserError, match="no line has a class of"):
        read_det_blacklist(path, DET_TRUTH)
    path.write_text("3\n1\n777\n")
    assert read_loc_blacklist(path, LOC_TRUTH).tolist() == [True, False, True]
    path.write_text("cat\n")
    with pytest.raises(UserError, match=r"black\.txt: line 1: 'cat' is not the number"):
        read_loc_blacklist(path, LOC_TRUTH)


IMAGE = CASE.image_ids[0]
NUMBER = DET.image_ids[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{IMAGE} .5 1 1 5 5\n\n{IMAGE} .5 1 1 5\n", "line 3: 5 values instead of 6"),
        (f"{IMAGE} high 1 1 5 5\n", "line 1: 'high' is not a finite number"),
        (f"{IMAGE} nan 1 1 5 5\n", "line 1: 'nan' is not a finite number"),
        (f"{IMAGE} .5 1 1 1_0 5\n", "line 1: '1_0' is not a finite number"),
        ("2008_999999 .5 1 1 5 5\n", "line 1: image '2008_999999' is not in"),
    ],
)
def test_malformed_voc_lines(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "comp4_det_test_cat.txt").write_text(text)
    with pytest.raises(UserError, match=f"comp4_det_test_cat.txt: {message}"):
        read_voc_results(tmp_path, TRUTH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{NUMBER} 1 .5 1 1 5\n", "line 1: 6 values instead of 7"),
        (f"{NUMBER} 1.5 .5 1 1 5 5\n", "line 1: label 1.5 is not a whole number"),
        ("99 1 .5 1 1 5 5\n", "line 1: image 99 is not in"),
        (f"{NUMBER} 1 .5 1 1 5 5\n{NUMBER} 0 .5 1 1 5 5\n", "line 2: label 0 is not one of"),
        (f"{NUMBER} 1 inf 1 1 5 5\n", "line 1: 'inf' is not a finite number"),
    ],
)
def test_malformed_det_lines(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "det.txt").write_text(text)
    with pytest.raises(UserError, match=f"det.txt: {message}"):
        read_det_predictions(tmp_path / "det.txt", DET_TRUTH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 0 9 9\n2 0 0 9 9\n", "2 lines for the 3 images"),
        ("1 0 0 9 9\n\n2 0 0 9 9\n1 0 0 9 9\n", "line 2: it is empty"),
        ("1 0 0 9 9\n2 0 0 9\n1 0 0 9 9\n", "line 2: 4 values, not a multiple of 5"),
        ("1 0 0 9 9\n3 0 0 9 9\n1 0 0 9 9\n", "line 2: label 3 is not one of the 2 classes"),
    ],
)
def test_malformed_loc_lines(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "loc.txt").write_text(text)
    with pytest.raises(UserError, match=f"loc.txt: {message}"):
        read_loc_predictions(tmp_path / "loc.txt", LOC_TRUTH)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        read_voc_results(tmp_path / "none", TRUTH)
    with pytest.raises(UserError, match=r"no file comp4_det_test_CLASS\.txt in it"):
        read_voc_results(tmp_path, TRUTH)
    with pytest.raises(UserError, match="no such file"):
        read_det_predictions(tmp_path / "none.txt.gz", DET_TRUTH)
    for name in ("comp4_det_test_cat.txt", "comp4_det_val_cat.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match="is of the same class"):
        read_voc_results(tmp_path, TRUTH)


def test_empty_files_are_without_detections(tmp_path: Path) -> None:
    for name in CASE.class_names:
        (tmp_path / f"comp4_det_test_{name}.txt").write_text("")
    result = evaluate_voc(TRUTH, read_voc_results(tmp_path, TRUTH), "voc12")
    assert result.summary["mAP"] == 0 and "there are no detections at all" in result.notes
    (tmp_path / "det.txt").write_text("")
    result = evaluate_det(DET_TRUTH, read_det_predictions(tmp_path / "det.txt", DET_TRUTH))
    assert result.summary["mAP"] == 0


def test_mutated_files_never_give_a_traceback(tmp_path: Path) -> None:
    write_voc(CASE, tmp_path / "voc")
    (tmp_path / "loc.txt").write_text("2 0 0 9 9 1 0 0 9 9\n0 0 0 0 0 2 5 5 24 24\n1 0 0 3 3\n")
    det = write_det(DET, tmp_path / "det.txt")
    archive = tmp_path / "voc.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(tmp_path / "voc" / "comp4_det_test_cat.txt")
    readers: list[tuple[Path, Any, Any]] = [
        (tmp_path / "voc" / "comp4_det_test_cat.txt", read_voc_results, TRUTH),
        (archive, read_voc_results, TRUTH),
        (det, read_det_predictions, DET_TRUTH),
        (tmp_path / "loc.txt", read_loc_predictions, LOC_TRUTH),
        (tmp_path / "loc.txt", read_loc_blacklist, LOC_TRUTH),
        (det, read_det_blacklist, DET_TRUTH),
        (tmp_path / "loc.txt", class_numbers, LOC_TRUTH),
    ]
    rng = random.Random(0)
    refused = 0
    for path, read, truth in readers:
        original = path.read_bytes()
        for _ in range(60):
            path.write_bytes(mutated(original, rng))
            try:
                read(path, truth)
            except UserError as error:
                assert str(path) in str(error)
                refused += 1
        path.write_bytes(original)
    assert refused > 100


def mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data[place : place + rng.randint(1, 9)] = b""
        elif kind == 1:
            data[place:place] = rng.choice(
                [b"nan", b"1e999", b"-", b"\n", b" ", b"\x00", b"\xff\xfe", b"9" * 400, b"\xd9\xa3"]
            )
        elif kind == 2:
            data = data[:place]
        elif data:
            data[min(place, len(data) - 1)] = rng.randrange(256)
    return bytes(data)


def test_demo_predictions_are_read_and_evaluated_fast(shared_data: Path) -> None:
    path = shared_data / "ilsvrc_reference" / "det_demo_predictions.txt.xz"
    rng = np.random.RandomState(0)
    count, objects = 20121, 55502
    sides = rng.randint(5, 200, (objects, 2))
    boxes = np.concatenate([rng.randint(0, 300, (objects, 2)), sides], 1).astype(float)
    names = [f"class {number}" for number in range(1, 201)]
    image_of = rng.randint(0, count, objects)
    truth = flat_table(
        np.arange(1, count + 1), names, image_of, boxes, rng.randint(0, 200, objects)
    )
    start = time.process_time()
    detections = read_det_predictions(path, truth)
    result = evaluate_det(truth, detections)
    assert time.process_time() - start < 10, "seconds"
    assert len(detections.scores) == 49013 and len(set(detections.labels.tolist())) == 200
    assert 0 < result.summary["mAP"] < 0.1, "chance"
    # the demo file is not free of mistakes
    assert "boxes have a negative size and match nothing (line 56, " in result.notes[0]
    # taken as the ground truth itself, the other detections are all right
    detections = detections.rows((detections.corners[:, 2:] >= detections.corners[:, :2]).all(1))
    x1, y1, x2, y2 = detections.corners.T
    own = flat_table(
        np.arange(1, count + 1),
        names,
        detections.images,
        np.stack([x1, y1, x2 - x1 + 1, y2 - y1 + 1], axis=1),
        detections.labels,
    )
    assert evaluate_det(own, detections).summary["mAP"] == pytest.approx(1, abs=1e-9)


def test_a_class_name_that_no_file_can_hold(tmp_path: Path) -> None:
    case = Case(["a"], ["traffic light"], [(0, 0, (1, 1, 5, 5), 0)], [], [], [(9, 9)])
    truth = table_of(case, 1)
    nothing = PixelDetections(*(np.zeros(0, np.int64),) * 2, np.zeros(0), np.zeros((0, 4)))
    with pytest.raises(UserError, match="class 'traffic light'"):
        write_voc_results(tmp_path / "a.tar.gz", truth, nothing, year=2012, subset="test")
