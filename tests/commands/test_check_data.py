"""Data sets with planted defects, clean ones, and how the results are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from resdet import cli
from resdet.commands.check_data import check_data
from resdet.commands.data_paths import config_of
from resdet.config.detection import DetectionConfig
from resdet.errors import UserError
from resdet.factory import build_data
from tests.commands import planted_defects
from tests.commands.planted_defects import PLANTED, WHOLE, Planted, plant_all

OF_BCCD = r"BloodImage_00038.jpg\) shows the same as image 36 \(BloodImage_00037"
"""One field of a smear, taken twice at other distances of the lens."""


@pytest.fixture(scope="module")
def planted(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    data = Planted(shared_data / "bccd", tmp_path_factory.mktemp("planted") / "bccd")
    data.clean = data.copy()
    plant_all(data)
    return data


@pytest.fixture(scope="module")
def found(planted: Planted) -> list[str]:
    return [str(finding) for finding in check_data(planted.write())]


@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_defect_is_a_finding(found: list[str], name: str) -> None:
    pattern = PLANTED[name][1]
    assert any(re.search(pattern, line) for line in found), "\n".join(found)


def test_nothing_else_is_found(found: list[str]) -> None:
    patterns = [*(pattern for _, pattern in PLANTED.values()), OF_BCCD]
    others = [line for line in found if not any(re.search(each, line) for each in patterns)]
    assert others == []


@pytest.mark.parametrize("name", WHOLE)
def test_each_defect_of_a_whole_file_is_a_finding(planted: Planted, name: str) -> None:
    plant, pattern = WHOLE[name]
    data = planted.clean.copy()
    plant(data)
    lines = [str(finding) for finding in check_data(data.write(plant.__name__), images=False)]
    assert any(re.search(pattern, line) for line in lines), "\n".join(lines)


def test_clean_annotations_have_no_finding(planted: Planted) -> None:
    assert check_data(planted.clean.write("clean"), images=False) == []


@pytest.mark.slow
def test_the_whole_clean_set_has_one_finding(shared_data: Path) -> None:
    data = shared_data / "bccd"
    paths = [str(data / each) for each in ("images", "annotations/train.json")]
    (only,) = check_data([*paths, str(data / "images"), str(data / "annotations/val.json")])
    assert re.search(OF_BCCD, str(only))


def test_the_page_the_table_and_the_exit_codes(
    nuclei: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = json.loads((nuclei / "annotations" / "val.json").read_text())
    content["annotations"][0]["bbox"][2] = 0
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    page = tmp_path / "check.html"
    given = ["check-data", str(nuclei / "images"), str(file), "--no-images"]
    assert cli.main([*given, "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "without width; it is left out of training" in caplog.text
    assert "best anchor below IoU 0.5: 1" in shown
    assert re.search(r"nucleus +1,974 +67", shown)
    assert "1 finding(s) of 1 kind(s)" in shown
    assert "without width" in page.read_text() and "best anchor below" in page.read_text()
    assert cli.main([*given, "--strict"]) == 1
    content["annotations"][0]["bbox"][2] = 5
    file.write_text(json.dumps(content))
    assert cli.main([*given, "--strict"]) == 0
    assert "no findings" in capsys.readouterr().out
    file.write_text("{")
    assert cli.main(given) == 2


def test_a_config_whose_sets_have_other_classes_is_an_error_after_the_results(
    nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((nuclei / "annotations" / "val.json").read_text())
    content["categories"][0]["name"] = "Nuclei"
    (tmp_path / "val.json").write_text(json.dumps(content))
    config = [f"data.val.annotations={tmp_path / 'val.json'}", "data.val.images=" + str(nuclei)]
    given = ["check-data", "configs/demo_nuclei.yaml", *config, "--no-images"]
    assert cli.main([*given, f"data.val.images={nuclei / 'images'}"]) == 2
    done = capsys.readouterr()
    assert "data.val" in done.out and "finding" in done.out
    assert "its categories are not the model's 1 classes; it lacks nucleus" in done.err


def test_folders_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)

    def save(name: str, pixels: np.ndarray) -> None:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    images = {f"{k}": texture(rng) for k in range(24)}
    for k, pixels in images.items():
        save(f"train/{'cat' if int(k) % 2 else 'dog'}/{k}.png", pixels)
        save(f"val/{'cat' if int(k) % 2 else 'dog'}/{k}.png", texture(rng))
    save("train/cat/other_class.png", images["0"])
    save("val/cat/leak.png", cv2.resize(images["1"], (100, 75), interpolation=cv2.INTER_AREA))
    save("train/dog/blurred.png", cv2.GaussianBlur(images["3"][::-1].copy(), (0, 0), 4))
    save("train/dog/dark.png", images["4"][::-1] // 12)
    (tmp_path / "set/train/dog/cut.png").write_bytes(
        (tmp_path / "set/train/dog/2.png").read_bytes()[:3000]
    )
    lines = [str(finding) for finding in check_data([str(tmp_path / "set")])]
    for pattern in (
        r"other_class.png is byte for byte .*0.png, and has another class|"
        r"0.png is byte for byte .*other_class.png, and has another class",
        r"leak.png\) show the same as images of",
        r"blurred.png is blurred",
        r"dark.png is very dark",
        r"cut.png can't be read",
    ):
        assert any(re.search(pattern, line) for line in lines), (pattern, lines)
    assert len(lines) == 5
    assert re.search(r"dog +14", capsys.readouterr().out)


def test_folders_with_parts(nuclei: Path, tmp_path: Path) -> None:
    """As Roboflow exports them: YOLO with data.yaml, and COCO."""
    content = json.loads((nuclei / "annotations" / "val.json").read_text())
    for part, images in (("train", content["images"][:9]), ("valid", content["images"][9:12])):
        ids = {image["id"] for image in images}
        own = [each for each in content["annotations"] if each["image_id"] in ids]
        (tmp_path / "yolo" / part / "images").mkdir(parents=True)
        (tmp_path / "yolo" / part / "labels").mkdir()
        (tmp_path / "coco" / part).mkdir(parents=True)
        for image in images:
            for folder in (tmp_path / "yolo" / part / "images", tmp_path / "coco" / part):
                (folder / image["file_name"]).symlink_to(nuclei / "images" / image["file_name"])
            label = tmp_path / "yolo" / part / "labels" / f"{Path(image['file_name']).stem}.txt"
            boxes = [each["bbox"] for each in own if each["image_id"] == image["id"]]
            rows = [
                ((x + w / 2) / 256, (y + h / 2) / 256, w / 256, h / 256) for x, y, w, h in boxes
            ]
            label.write_text("".join(f"0 {' '.join(map(str, row))}\n" for row in rows))
        coco = {**content, "images": images, "annotations": own}
        (tmp_path / "coco" / part / "_annotations.coco.json").write_text(json.dumps(coco))
    described = "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: [cell]\n"
    (tmp_path / "yolo" / "data.yaml").write_text(described)
    for given in (tmp_path / "yolo", tmp_path / "yolo" / "data.yaml", tmp_path / "coco"):
        config = config_of([str(given)])
        assert isinstance(config, DetectionConfig)
        data = build_data(config)
        assert data.val is not None and (len(data.train), len(data.val)) == (9, 3)
        assert data.train.class_names == ["cell" if "yolo" in str(given) else "nucleus"]


def test_the_parts_of_yolos_description(tmp_path: Path) -> None:
    for stem in "ab":
        for kind, content in (("images", b""), ("labels", b"0 .5 .5 .1 .1\n")):
            (tmp_path / kind).mkdir(exist_ok=True)
            suffix = "jpg" if kind == "images" else "txt"
            (tmp_path / kind / f"{stem}.{suffix}").write_bytes(content)
    (tmp_path / "train.txt").write_text("images/a.jpg\n")
    (tmp_path / "val.txt").write_text("images/b.jpg\n")
    (tmp_path / "data.yaml").write_text("names: [x]\ntrain: train.txt\nval: val.txt\n")
    (tmp_path / "args.yaml").write_text("epochs: 3\n")
    for given, has_val in ((tmp_path, True), (tmp_path / "data.yaml", True),
                           (tmp_path / "train.txt", False)):  # fmt: skip
        config = config_of([str(given)])
        assert isinstance(config, DetectionConfig)
        assert config.data.train.annotations == str(given)
        assert (config.data.val is not None) == has_val


def texture(rng: np.random.Generator) -> np.ndarray:
    """A picture of smooth blobs with fine grain, (96, 128, 3)."""
    coarse = rng.integers(0, 200, (6, 8, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.integers(0, 55, (96, 128, 1)), 0, 255).astype(np.uint8)


def test_corrected_annotations_have_only_findings_without_one_remedy(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = planted.clean.copy()
    swapped, first = data.train.images[0], data.train.objects[0]
    swapped |= {"width": 480, "height": 640}
    for each in data.train.of(0):  # inside the real image
        each["bbox"] = np.minimum(each["bbox"], (500, 300, 99, 99)).tolist()
    for name in ("_listed_twice", "_wrong_size", "_outside", "_past", "_flat", "_missing"):
        getattr(planted_defects, name)(data)
    data.train.add_object(first["image_id"], list(first["bbox"]), first["category_id"])
    paths, out = data.write("faulty"), tmp_path / "fixed.json"
    before = Path(paths[1]).read_bytes()
    check_data(paths, images=False, fix=str(out))
    assert Path(paths[1]).read_bytes() == before
    shown = capsys.readouterr().out
    assert (
        f"written: {out}: 69 images, {len(data.train.objects) - len(data.train.of(8)) - 4} objects;"
        " 1 annotated sizes with width and height swapped corrected, 2 images that can't be used "
        "left out, 1 images listed twice merged, 1 objects without area left out, 1 objects "
        "outside their image left out, 1 boxes clipped to their image, 1 copies of objects left out"
    ) in shown
    assert f"fixed_val.json: {len(data.val.images)} images" in shown
    fixed = json.loads(out.read_text())
    (image,) = [each for each in fixed["images"] if each["id"] == swapped["id"]]
    assert (image["width"], image["height"]) == (640, 480)
    assert [600.0, 400.0, 40.0, 60.0] in [each["bbox"] for each in fixed["annotations"]]
    again = [str(data.images), str(out), str(data.images), str(tmp_path / "fixed_val.json")]
    assert check_data(again, images=False) == []
    with pytest.raises(UserError, match="exists, and nothing is overwritten"):
        check_data(paths, images=False, fix=str(out))
    with pytest.raises(UserError, match=r"give it the ending .json"):
        check_data(paths, images=False, fix=str(tmp_path / "fixed"))


def test_the_list_in_the_docs_is_what_is_planted(repo: Path) -> None:
    text = (repo / "docs/how-to/check-data.md").read_text()
    listed = re.findall(r"^\| [a-z ]*\| (.+) \|$", text.split("## Statistics")[0], re.MULTILINE)
    assert set(listed) - {"finding"} >= {*PLANTED, *WHOLE}
