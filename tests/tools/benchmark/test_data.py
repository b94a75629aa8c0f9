"""The benchmark of data: what is compared does the same work, and a run gives its table."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
import torch
from PIL import Image

from resdet.errors import UserError
from tools.benchmark import data, data_others

NUM_IMAGES, OBJECTS = 3, 5


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture(scope="module")
def coco(shared_data: Path, tmp_path_factory) -> tuple[str, str]:
    """Three images of COCO with five objects each, as the benchmark writes them."""
    folder = shared_data / "coco128_inst"
    whole = json.loads((folder / "annotations" / "train.json").read_text())
    with_polygons = {
        each["image_id"]
        for each in whole["annotations"]
        if isinstance(each["segmentation"], list) and each["segmentation"]
    }
    whole["images"] = [each for each in whole["images"] if each["id"] in with_polygons][:NUM_IMAGES]
    ids = {each["id"] for each in whole["images"]}
    whole["annotations"] = [each for each in whole["annotations"] if each["image_id"] in ids]
    source = tmp_path_factory.mktemp("coco") / "few.json"
    source.write_text(json.dumps(whole))
    target = source.with_name("even.json")
    assert data.write_annotations(source, target, OBJECTS) == NUM_IMAGES
    return str(folder / "images"), str(target)


@pytest.fixture(scope="module")
def photos(shared_data: Path, tmp_path_factory) -> Path:
    """Six images of 500 pixels in two classes."""
    source, target = tmp_path_factory.mktemp("few"), tmp_path_factory.mktemp("photos")
    for path in sorted((shared_data / "coco128_inst" / "images").glob("*.jpg"))[:6]:
        (source / path.name).symlink_to(path)
    assert data.write_photos(source, target) == 6
    return target


def test_every_image_has_so_many_objects(coco):
    written = json.loads(Path(coco[1]).read_text())
    assert len(written["images"]) == NUM_IMAGES
    assert len({each["id"] for each in written["annotations"]}) == NUM_IMAGES * OBJECTS
    for image in written["images"]:
        own = [each for each in written["annotations"] if each["image_id"] == image["id"]]
        assert len(own) == OBJECTS
        assert not any(each.get("iscrowd") for each in own)


def test_photos_are_500_pixels_long(photos):
    for path in photos.rglob("*.jpg"):
        with Image.open(path) as image:
            assert max(image.size) == 500 and image.format == "JPEG"
    assert sorted(each.name for each in photos.iterdir()) == ["even", "odd"]


@pytest.mark.parametrize("mode", data.MODES)
def test_ours_makes_a_batch(coco, mode):
    step, _ = data.our_detection(*coco, mode, 2)
    batch, other = step(), step()
    assert batch.images.images.dtype == torch.uint8
    assert batch.indices == [0, 1] and other.indices == [2, 0]
    assert batch.targets.masks.shape[1:] == (112, 112)
    if mode == "lsj":
        assert batch.shape == (2, 3, 1024, 1024)
    else:
        assert batch.targets.valid.sum() == 2 * OBJECTS
        short = batch.images.sizes.min(dim=1).values
        assert all(int(each) in data_others.SHORT_EDGES for each in short)


@pytest.mark.parametrize("mode", data.MODES)
def test_torchvision_makes_a_batch(coco, mode):
    step, _ = data_others.torchvision_detection(*coco, mode, 2)
    images, targets = step()
    if mode == "lsj":
        assert images.shape == (2, 3, 1024, 1024)
    else:
        assert all(min(size) in data_others.SHORT_EDGES for size in images.image_sizes)
        images = images.tensors
    assert images.dtype == torch.float32 and abs(float(images.mean())) < 3
    for row, target in enumerate(targets):
        assert len(target["masks"]) == len(target["boxes"]) == len(target["labels"])
        if mode == "multi_scale":
            assert len(target["masks"]) == OBJECTS
            height, width = target["masks"].shape[1:]
            assert height <= images.shape[2] and width <= images.shape[3]
        else:
            assert target["masks"].shape[1:] == (1024, 1024)
        boxes, masks = target["boxes"], target["masks"]
        for box, mask in zip(boxes.round().int().tolist(), masks, strict=True):
            inside = mask[max(0, box[1] - 3) : box[3] + 3, max(0, box[0] - 3) : box[2] + 3]
            assert inside.sum() == mask.sum(), row


def test_torchvision_before_its_resize(coco):
    step, _ = data_others.torchvision_detection(*coco, "multi_scale", 2, resize=False)
    images, targets = step()
    files = json.loads(Path(coco[1]).read_text())["images"]
    sizes = [each["width"] * each["height"] for each in files]
    assert [image.shape[1] * image.shape[2] for image in images] == sizes[:2]
    assert targets[0]["masks"].shape == (OBJECTS, *images[0].shape[1:])


@pytest.mark.parametrize("mode", data.MODES)
def test_albumentations_makes_samples(coco, mode):
    step, _ = data_others.albumentations_detection(*coco, mode, 2)
    for image, boxes, labels, masks in step():
        assert image.dtype == torch.uint8
        if mode == "lsj":
            assert image.shape == (3, 1024, 1024)
        else:
            assert min(image.shape[1:]) in data_others.SHORT_EDGES
            assert len(masks) == OBJECTS
        assert len(boxes) == len(labels) == len(masks)
        assert masks.shape[1:] == image.shape[1:]


def test_the_crop_of_torchvisions_jitter():
    from torchvision import tv_tensors

    crop = data_others._fixed_size_crop(8)
    wide = torch.arange(6 * 20).view(1, 6, 20)
    boxes = tv_tensors.BoundingBoxes([[0.0, 0, 20, 6]], format="XYXY", canvas_size=(6, 20))
    image, moved = crop(tv_tensors.Image(wide), boxes)
    assert image.shape == (1, 8, 8)
    left = int(image[0, 0, 0])
    assert torch.equal(image[0, :6], wide[0, :, left : left + 8])
    assert not image[0, 6:].any()
    assert moved.tolist() == [[0, 0, 8, 6]]


def test_classification_batches_agree(photos):
    given = {"root": str(photos), "batch_size": 4}
    theirs, _ = data_others.torchvision_classification(**given, normalize=True)
    ours, _ = data.our_classification(**given, normalize=True)
    images, _ = theirs()
    pixels = ours()
    assert images.shape == pixels.shape == (4, 3, 224, 224)
    assert images.dtype == pixels.dtype == torch.float32
    assert abs(float(images.mean() - pixels.mean())) < 0.5
    theirs, _ = data_others.torchvision_classification(**given, normalize=False)
    ours, _ = data.our_classification(**given, normalize=False)
    assert theirs()[0].dtype == ours().images.dtype == torch.uint8


def test_everyone_takes_the_same_images(photos):
    step, _ = data.our_classification(str(photos), 6, normalize=False)
    paths = step().paths
    from torchvision.datasets import ImageFolder

    listed = [path for path, _ in ImageFolder(str(photos)).samples]
    assert paths == [listed[index] for index in data_others.shuffled(6)]


def test_a_run_writes_its_tables(coco, tmp_path, capsys):
    found = data.benchmark_detection_data(
        *coco, modes=["lsj"], against=[], objects=2, rounds=1, steps=1, out=tmp_path
    )
    assert [row["name"] for row in found["lsj"]] == ["resdet"]
    assert found["lsj"][0]["error"] is None and found["lsj"][0]["per_s"] > 0
    written = json.loads((tmp_path / "benchmark_data_lsj.json").read_text())
    assert written["objects"] == 2 and written["num_images"] == NUM_IMAGES
    assert (tmp_path / "benchmark_data_lsj.png").exists()
    assert "images/s" in capsys.readouterr().out


def test_ratios_are_to_the_row_of_the_same_kind(monkeypatch, photos, tmp_path, capsys):
    from tools.benchmark.turns import Timing

    def fake(contenders, **options):
        assert options["threads"] == 1
        seconds = {"torchvision, normalised": 4.0, "resdet, normalised": 2.0}
        seconds |= {"torchvision, uint8": 3.0, "resdet, uint8": 1.0}
        return [
            Timing(each.name, "", seconds[each.name], 1.0, 4.0, peak_mb=1.0) for each in contenders
        ]

    monkeypatch.setattr(data, "take_turns", fake)
    data.benchmark_cls_data(photos, photos=photos, out=tmp_path)
    written = json.loads((tmp_path / "benchmark_data_cls_500.json").read_text())
    gains = written["resdet_is_times_as_fast_as"]
    assert gains == {"torchvision, normalised": 2.0, "torchvision, uint8": 3.0}
    assert "resdet is 3.00 × as fast as torchvision, uint8" in capsys.readouterr().out


def test_mistakes_are_named(coco, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no mode 'lsi'; give some of multi_scale, lsj"):
        data.benchmark_detection_data(*coco, modes=["lsi"])
    with pytest.raises(UserError, match="no program 'mmdet'"):
        data.benchmark_detection_data(*coco, against=["mmdet"])
    with pytest.raises(UserError, match="fewer than two images"):
        data.write_photos(tmp_path, tmp_path / "out")
    empty = json.loads(Path(coco[1]).read_text())
    for each in empty["annotations"]:
        each["segmentation"] = []
    (tmp_path / "boxes.json").write_text(json.dumps(empty))
    with pytest.raises(UserError, match="no object has polygons"):
        data.write_annotations(tmp_path / "boxes.json", tmp_path / "out.json", 2)
    # detectron2 is left out where it is not installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    names = [each.name for each in data._detection_contenders("", "", "lsj", ["detectron2"])]
    assert names == ["resdet"]
