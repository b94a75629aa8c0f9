"""ImageNet's flat validation folder: the kit's numbers in the kit's order, tables, and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from resdet.data.classification.folder import FileImages
from resdet.data.classification.imagenet import NUMBERS, read_flat_images
from resdet.files.findings import DataError
from tests.data.make_cls import picture

# ILSVRC2012_ID of four classes: not the order of the wnids.
KIT = {1: "n02119789", 2: "n02100735", 3: "n02110185", 4: "n01440764"}


def write_flat(folder: Path, count: int = 5) -> Path:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        picture(number).save(folder / f"ILSVRC2012_val_{number:08d}.JPEG", "JPEG")
    return folder


def write_kit(folder: Path, numbers: list[int], *, meta: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NUMBERS).write_text("".join(f"{number}\n" for number in numbers))
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    # as in the kit, groups of classes follow the classes
    rows = [(number, wnid, "some, words", 0) for number, wnid in KIT.items()]
    synsets = np.array([*rows, (1001, "n00001740", "entity", 3)], dtype=fields)
    if meta:
        savemat(folder / "meta.mat", {"synsets": synsets[:, None]})
    return folder


def classes(images: FileImages) -> list[str]:
    return [images.class_names[label] for label in images.labels]


@pytest.mark.parametrize("place", [".", "..", "../ILSVRC2012_devkit_t12/data"])
def test_the_kits_numbers_follow_its_own_order(tmp_path: Path, place: str) -> None:
    root = write_flat(tmp_path / "set" / "val")
    write_kit(root / place, [4, 1, 3, 1, 2])
    images = read_flat_images(root)
    assert images.class_names == sorted(KIT.values())
    expected = ["n01440764", "n02119789", "n02110185", "n02119789", "n02100735"]
    assert classes(images) == expected
    assert images.labels.tolist() == [0, 3, 2, 3, 1]
    # a subset of the files keeps their numbers
    (root / "ILSVRC2012_val_00000002.JPEG").unlink()
    assert classes(read_flat_images(root)) == [expected[i] for i in (0, 2, 3, 4)]
    train = ["n02119789", "n02100735", "n02110185", "n01440764", "n09999999"]
    images = read_flat_images(root, train_classes=train)
    assert images.class_names == train and images.labels.tolist() == [3, 2, 0, 1]


def test_a_text_table_of_numbers_will_do(tmp_path: Path) -> None:
    root = write_flat(tmp_path / "val")
    write_kit(tmp_path, [4, 1, 3, 1, 2], meta=False)
    with pytest.raises(DataError, match=r"neither meta\.mat nor map_clsloc\.txt is in"):
        read_flat_images(root)
    lines = [f"{wnid} {number} name_{number}" for number, wnid in KIT.items()]
    (tmp_path / "map_clsloc.txt").write_text("\n".join(lines))
    assert classes(read_flat_images(root))[:2] == ["n01440764", "n02119789"]


TABLES = {
    "val.txt": "ILSVRC2012_val_00000001.JPEG n02119789\nILSVRC2012_val_00000002.JPEG n01440764\n",
    "ground_truth.csv": "file,wnid\nval/ILSVRC2012_val_00000001.JPEG,n02119789\n"
    "val/ILSVRC2012_val_00000002.JPEG,n01440764\n",
    "LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC2012_val_00000002,n01440764 1 2 3 4 "
    "n01440764 5 6 7 8 \nILSVRC2012_val_00000001,n02119789 85 1 499 272 \n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_files_and_wnids(tmp_path: Path, name: str) -> None:
    root = write_flat(tmp_path / "val", 2)
    (tmp_path / name).write_text(TABLES[name])
    images = read_flat_images(root)
    assert images.class_names == ["n01440764", "n02119789"]
    assert images.labels.tolist() == [1, 0]
    elsewhere = (tmp_path / name).rename(tmp_path / "mine")
    assert classes(read_flat_images(root, ground_truth=elsewhere)) == ["n02119789", "n01440764"]


def test_images_without_a_truth_are_findings(tmp_path: Path) -> None:
    root = write_flat(tmp_path / "val", 3)
    (root / "val.txt").write_text(TABLES["val.txt"])
    images = read_flat_images(root)
    assert len(images.labels) == 2
    [finding] = images.findings
    assert "val.txt: ILSVRC2012_val_00000003.JPEG is not listed; the image is left out" in str(
        finding
    )


def test_a_choice_of_classes_leaves_the_others_out(tmp_path: Path) -> None:
    root = write_flat(tmp_path / "val", 2)
    (root / "val.txt").write_text(TABLES["val.txt"])
    images = read_flat_images(root, classes=["n02119789"])
    assert len(images.labels) == 1 and images.findings == []


def test_what_can_go_wrong_is_said(tmp_path: Path) -> None:
    root = write_flat(tmp_path / "a" / "b" / "val", 2)
    with pytest.raises(DataError, match=r"2 images without class folders.*ground_truth=ILSVRC"):
        read_flat_images(root)
    with pytest.raises(DataError, match=r"nowhere\.txt: no such ground-truth file"):
        read_flat_images(root, ground_truth=tmp_path / "nowhere.txt")
    table = tmp_path / "table.txt"
    for text, message in {
        "ILSVRC2012_val_00000001.JPEG 65\n": r"line 1 gives .* the class 65; give its name",
        "ILSVRC2012_val_00000001.JPEG\n": r"line 1 .* is not `file class`",
        "": r"table\.txt: empty",
        "other.JPEG n01440764\n": r"names none of the 2 images",
    }.items():
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            read_flat_images(root, ground_truth=table)
    table.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match=r"not a text file"):
        read_flat_images(root, ground_truth=table)
    write_kit(root, [7, 7])
    with pytest.raises(DataError, match=r"line 1 is class 7, not one of 5"):
        read_flat_images(root)
    write_kit(root, [1, 2])
    (root / "meta.mat").write_bytes(b"MATLAB 5.0 broken")
    with pytest.raises(DataError, match=r"meta\.mat: not ILSVRC's meta\.mat"):
        read_flat_images(root)


def test_the_folder_of_one_class_names_the_one_above(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.jpg").touch()
    with pytest.raises(
        DataError, match=rf"if it is the folder of one class, give {tmp_path}/train;"
    ):
        read_flat_images(tmp_path / "train" / "cat")
