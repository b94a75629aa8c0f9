"""Proposals files: what is written is read back, mapped, and damaged files give one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resdet.errors import UserError
from resdet.files.findings import DataError
from resdet.files.npz import map_npz
from resdet.files.proposals import ProposalFile, Proposals, ProposalWriter

NAMES = ["cat", "dog", "owl"]
SIZES = np.array([[40, 60], [50, 30], [20, 20]])


def write(path: Path, ids: list[int | str], seed: int = 0) -> dict[int | str, list[np.ndarray]]:
    """A file of `len(ids)` images with 0, 5, 10 … proposals of random classes; what it holds."""
    rng = np.random.default_rng(seed)
    held = {}
    with ProposalWriter(path, NAMES) as writer:
        for row, image_id in enumerate(ids):
            height, width = SIZES[row]
            corner = rng.uniform(0, 10, (5 * row, 2)).astype(np.float32)
            boxes = np.concatenate([corner, corner + rng.uniform(1, 9, corner.shape)], 1)
            boxes = boxes.astype(np.float32)
            scores = rng.uniform(0, 1, 5 * row).astype(np.float32)
            labels = rng.integers(0, 3, 5 * row)
            writer.add(image_id, (height, width), boxes, scores, labels)
            held[image_id] = [boxes, scores, labels]
    return held


@pytest.mark.parametrize("ids", [[5, -3, 7], ["n01_5", "ä", "7"], [1, "b", 3]])
def test_a_file_is_read_back_in_the_order_of_the_data(tmp_path: Path, ids: list[int | str]) -> None:
    held = write(tmp_path / "p.npz", ids)
    order = [2, 0, 1]
    wanted = [ids[row] for row in order]
    # the data set's labels need not be the file's
    data_names = ["owl", "fox", "cat", "dog"]
    proposals = Proposals(tmp_path / "p.npz", wanted, SIZES[order], data_names)
    assert len(proposals) == 3
    for row, image_id in enumerate(wanted):
        boxes, scores, labels = held[image_id]
        for label, name in enumerate(data_names):
            own = [i for i in range(len(scores)) if NAMES[labels[i]] == name]
            own.sort(key=lambda i: -scores[i])
            got = proposals.of_class(row, label, limit=3)
            np.testing.assert_array_equal(got[0], boxes[own[:3]])
            np.testing.assert_array_equal(got[1], scores[own[:3]])


def test_arrays_are_mapped_and_numpy_reads_the_file(tmp_path: Path) -> None:
    held = write(tmp_path / "p.npz", [1, 2, 3])
    mapped = map_npz(tmp_path / "p.npz", "proposals")
    assert isinstance(mapped["boxes"], np.memmap)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as loaded:
        assert set(loaded.files) == set(mapped)
        for key in loaded.files:
            np.testing.assert_array_equal(mapped[key], loaded[key])
        np.testing.assert_array_equal(loaded["boxes"][5:], held[3][0])
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_several_files_make_one_set(tmp_path: Path) -> None:
    first = write(tmp_path / "a.npz", [1, 2, 3])
    second = write(tmp_path / "b.npz", [4, 5, 6], seed=1)
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    proposals = Proposals(files, [6, 2], SIZES[[2, 1]], NAMES)
    for row, held in enumerate((second[6], first[2])):
        own = held[2] == 1
        assert sorted(proposals.of_class(row, 1)[1]) == sorted(held[1][own])


def test_boxes_are_clipped_and_empty_ones_left_out(tmp_path: Path) -> None:
    with ProposalWriter(tmp_path / "p.npz", NAMES) as writer:
        boxes = np.array([[-5.0, 2, 99, 8], [70, 2, 80, 8], [3, 3, 3, 9]])
        writer.add(1, (10, 20), boxes, np.ones(3), np.zeros(3, int))
    proposals = Proposals(tmp_path / "p.npz", [1], np.array([[10, 20]]), NAMES)
    assert proposals.of_class(0, 0)[0].tolist() == [[0, 2, 20, 8]]


def test_writing_refuses_what_no_model_should_give(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    one = np.ones(1)
    box, label = np.array([[0.0, 0, 5, 5]]), np.zeros(1, int)
    with pytest.raises(UserError, match="not numbers"), ProposalWriter(path, NAMES) as writer:
        writer.add(1, (9, 9), box, one * np.nan, label)
    with pytest.raises(UserError, match="twice"), ProposalWriter(path, NAMES) as writer:
        writer.add(1, (9, 9), box, one, label)
        writer.add(1, (9, 9), box, one, label)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made a folder"):
        ProposalWriter(tmp_path / "file" / "p.npz", NAMES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": None}, "no array `format`"),
        ({"format": np.array(2)}, "has format 2"),
        ({"scores": None}, "lacks scores"),
        ({"scores": np.zeros(15, np.int64)}, "scores is int64"),
        ({"labels": np.full(15, 3)}, "image 2 has a label without a class"),
        ({"counts": np.array([0, 5, 9])}, "counts do not add up"),
        ({"counts": np.array([20, -10, 5])}, "counts do not add up"),
        ({"boxes": np.full((15, 4), np.nan)}, "image 2 has a box that is empty or outside"),
        ({"boxes": np.zeros((15, 3))}, "boxes has shape"),
        ({"scores": np.full(15, np.inf)}, "a score that is not a number"),
        ({"image_ids": np.array([1, 1, 2])}, "an image id appears twice"),
        ({"image_sizes": np.zeros((3, 2), int)}, "image 1 has no size"),
        ({"class_names": np.array(["a", "a", "b"])}, "a class name appears twice"),
        ({"class_names": np.array(["a", object()], object)}, "class_names: holds Python objects"),
        ({"boxes": np.asfortranarray(np.zeros((15, 4)))}, "Fortran order"),
    ],
)
def test_a_bad_file_is_named_with_its_problem(
    tmp_path: Path, change: dict[str, np.ndarray | None], words: str
) -> None:
    write(tmp_path / "p.npz", [1, 2, 3])
    arrays = dict(np.load(tmp_path / "p.npz")) | change
    path = tmp_path / "bad.npz"
    np.savez(path, **{key: values for key, values in arrays.items() if values is not None})
    with pytest.raises(DataError, match=words) as caught:
        ProposalFile(path)
    assert str(caught.value).startswith(str(path))


def test_what_does_not_belong_to_the_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    write(path, [1, 2, 3])
    with pytest.raises(DataError, match=r"no proposals of 1 image\(s\) of the data: 9"):
        Proposals(path, [1, 9], SIZES[:2], NAMES)
    with pytest.raises(DataError, match=r"no proposals of 2 image\(s\)"):
        Proposals(path, ["1", "2"], SIZES[:2], NAMES)
    with pytest.raises(DataError, match="image 2: is 30×50 pixels there, and 60×40 in the data"):
        Proposals(path, [2], SIZES[:1], NAMES)
    with pytest.raises(DataError, match="its classes are cat, dog, owl"):
        Proposals(path, [1], SIZES[:1], ["n01", "n02"])
    with pytest.raises(DataError, match="no such file"):
        Proposals(tmp_path / "absent.npz", [1], SIZES[:1], NAMES)
    np.savez_compressed(tmp_path / "c.npz", **np.load(path))
    with pytest.raises(DataError, match=r"np\.savez instead of np\.savez_compressed"):
        ProposalFile(tmp_path / "c.npz")


def test_damaged_files_never_give_a_traceback(tmp_path: Path) -> None:
    write(tmp_path / "p.npz", ["a", "b", "c"])
    whole = (tmp_path / "p.npz").read_bytes()
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "damaged.npz", 0
    for trial in range(600):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: rng.integers(len(data))]
        else:
            for place in rng.integers(len(data), size=rng.integers(1, 9)):
                data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            Proposals(path, ["a", "b", "c"], SIZES, NAMES).of_class(2, 1)
        except DataError as error:
            refused += 1
            assert str(error).startswith(str(path))
    assert refused > 300
