"""Class folders: torchvision's order, which classes count, and what a user may get wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from resdet.data.classification.folder import FileImages, read_class_folders
from resdet.data.names import pack_names
from resdet.files.findings import DataError
from tests.data.make_cls import write_classes


def listed(images: FileImages) -> list[tuple[str, int]]:
    return [(images.names[i], int(images.labels[i])) for i in range(len(images.names))]


@pytest.mark.parametrize("name", ["hymenoptera_256/train", "imagenet1k_sample_256/images"])
def test_real_folders_are_read_as_torchvision_does(shared_data: Path, name: str) -> None:
    root = shared_data / name
    reference = ImageFolder(str(root))
    images = read_class_folders(root)
    assert images.class_names == reference.classes
    own = [(images.name(i), int(images.labels[i])) for i in range(len(images.labels))]
    assert own == [(path, label) for path, label in reference.samples]
    assert images.findings == []


def test_names_take_two_arrays() -> None:
    odd = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    given = ["a/b.jpg", "", "ä/ö.png", odd]
    names = pack_names(given)
    assert [names[i] for i in range(len(names))] == given
    kept = names.select(names.ends[[]]) if len(names) == 0 else names.select(names.ends * 0 + 2)
    assert [kept[i] for i in range(4)] == ["ä/ö.png"] * 4
    assert len(pack_names([])) == 0


def test_nested_images_are_found_and_hidden_files_passed_over(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"b": 1, "a": 1, "a/2019/may": 2, "b/.thumbs": 1})
    (root / "a" / ".DS_Store").write_bytes(b"x")
    (root / ".git").mkdir()
    images = read_class_folders(root)
    assert images.class_names == ["a", "b"]
    expected = [("a/0.jpg", 0), ("a/2019/may/0.jpg", 0), ("a/2019/may/1.jpg", 0), ("b/0.jpg", 1)]
    assert listed(images) == expected
    assert images.findings == []


def test_a_linked_class_folder_counts(tmp_path: Path) -> None:
    write_classes(tmp_path / "elsewhere", {"cats": 2})
    root = write_classes(tmp_path / "root", {"dogs": 1})
    (root / "cats").symlink_to(tmp_path / "elsewhere" / "cats")
    assert listed(read_class_folders(root)) == [
        ("cats/0.jpg", 0),
        ("cats/1.jpg", 0),
        ("dogs/0.jpg", 1),
    ]


def test_what_is_left_out_is_a_finding(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 2, "b": 1, "empty": 0})
    for name in ("a/notes.txt", "a/labels.xml", "readme.md", "loose.JPG"):
        (root / name).write_bytes(b"x")
    images = read_class_folders(root)
    assert images.class_names == ["a", "b", "empty"]
    assert len(images.labels) == 3
    texts = [str(finding) for finding in images.findings]
    assert len(texts) == 3
    assert f"{root}: class folder 'empty' holds no image; the class keeps its label" in texts[0]
    assert "loose.JPG not in a class folder; they are left out" in texts[1]
    assert "readme.md" in texts[2] and "labels.xml" in texts[2] and "notes.txt" in texts[2]


def test_capital_suffixes_and_other_formats(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 1}, suffix=".PNG")
    write_classes(root, {"b": 1}, suffix=".JPEG")
    assert listed(read_class_folders(root)) == [("a/0.PNG", 0), ("b/0.JPEG", 1)]


def test_chosen_classes_give_the_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_classes(tmp_path, {"a": 1, "b": 2, "c": 1})
    with caplog.at_level(logging.INFO, "resdet"):
        images = read_class_folders(root, classes=["c", "b"])
    assert images.class_names == ["c", "b"]
    assert listed(images) == [("b/0.jpg", 1), ("b/1.jpg", 1), ("c/0.jpg", 0)]
    assert "1 other class(es) left out by data.classes" in caplog.text
    with pytest.raises(DataError, match=r"no class C, which data\.classes names"):
        read_class_folders(root, classes=["C", "b"])
    with pytest.raises(DataError, match=r"did you mean bees"):
        read_class_folders(write_classes(tmp_path / "x", {"bees": 1, "ants": 1}), classes=["bess"])
    with pytest.raises(DataError, match=r"b twice"):
        read_class_folders(root, classes=["b", "b"])


def test_validation_takes_the_labels_of_training(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"bees": 1})
    images = read_class_folders(root, train_classes=["wasps", "bees", "ants"])
    assert images.class_names == ["wasps", "bees", "ants"]
    assert listed(images) == [("bees/0.jpg", 1)]
    with pytest.raises(
        DataError, match=r"1 class\(es\) that training lacks: bees; training has Bees"
    ):
        read_class_folders(root, train_classes=["Bees", "ants"])
    # what data.classes leaves out may lie in the validation set too
    write_classes(root, {"flies": 2})
    images = read_class_folders(root, classes=["bees"], train_classes=["bees"])
    assert listed(images) == [("bees/0.jpg", 0)]
    with pytest.raises(DataError, match=r"none of the classes of training"):
        read_class_folders(root, classes=["ants"], train_classes=["ants"])


def test_a_missing_folder_shows_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_class_folders(tmp_path / "imagenet" / "train")
    message = str(caught.value)
    assert f"no such folder: {tmp_path / 'imagenet' / 'train'}" in message
    for part in ("data.train.root=", "data.val.root=", "data.root=", "ILSVRC2012_img_train.tar"):
        assert part in message
    with pytest.raises(DataError) as caught:
        read_class_folders(tmp_path / "photos")
    assert "ILSVRC" not in str(caught.value)


def test_the_wrong_level_is_recognised(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"one class folder only|rather than classes"):
        read_class_folders(tmp_path)
    write_classes(tmp_path / "val", {"a": 1, "b": 1})
    with pytest.raises(
        DataError, match=r"holds train/, val/ rather than classes; give data\.root="
    ):
        read_class_folders(tmp_path)
    write_classes(tmp_path / "deep" / "images", {"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"only one class folder, images/.*which has 2 folders"):
        read_class_folders(tmp_path / "deep")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"no class folders in it"):
        read_class_folders(tmp_path / "none")
    with pytest.raises(DataError, match=r"no image in the class folders; images are named \*\.jpg"):
        read_class_folders(write_classes(tmp_path / "empties", {"a": 0, "b": 0}))


def test_a_link_to_its_own_folder_adds_no_image(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    before = listed(read_class_folders(tmp_path))
    (tmp_path / "a/self").symlink_to(".", target_is_directory=True)
    (tmp_path / "@eaDir/a").mkdir(parents=True)
    images = read_class_folders(tmp_path)
    assert listed(images) == before
    assert "a/self leads to a folder that contains it" in str(images.findings[0])
