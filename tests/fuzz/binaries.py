"""Broken checkpoints, states to resume from, images, and folders to predict on."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.torch
import torch
from PIL import Image

import resdet
from resdet.backbones import build_backbone
from resdet.engine.start import train
from resdet.errors import UserError
from resdet.files.images import check_image, open_image, read_fast, read_image, read_size
from resdet.interop.fitting import load_backbone
from tests.data.make_cls import picture
from tests.fuzz.mutate import mutate_bytes, mutate_tree, nasty
from tests.fuzz.outcome import command
from tests.golden import tiny_backbone

REPO = Path(__file__).resolve().parents[2]
STORED = REPO / "tests" / "golden" / "stored"
assert tiny_backbone.golden_tiny


@cache
def _state(run: str) -> dict[str, Any]:
    return torch.load(STORED / run / "last.pt", map_location="cpu", weights_only=True)


@cache
def _files() -> list[tuple[str, bytes]]:
    """(suffix, content) of checkpoints in every container."""
    weights = {name: value.contiguous() for name, value in _state("fpn")["model"].items()}
    legacy = io.BytesIO()
    torch.save(_state("fpn"), legacy, _use_new_zipfile_serialization=False)
    arrays = io.BytesIO()
    np.savez(arrays, **{name: value.numpy() for name, value in weights.items()})
    plain = {"model": {name: value.numpy() for name, value in weights.items()}}
    return [
        (".pt", (STORED / "fpn" / "last.pt").read_bytes()),
        (".pt", (STORED / "classifier" / "last.pt").read_bytes()),
        (".pth", legacy.getvalue()),
        (".safetensors", safetensors.torch.save(weights)),
        (".npz", arrays.getvalue()),
        (".pkl", pickle.dumps(plain, protocol=2)),
    ]


def _save(state: Any, path: Path, rng: random.Random) -> None:
    """A state in a torch file; what torch itself can't write is no case."""
    legacy = rng.random() < 0.2
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


def _rewritten_zip(rng: random.Random, data: bytes) -> bytes:
    """A checkpoint whose archive is in order and whose pickle or tensors are not."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        members = {name: old.read(name) for name in old.namelist()}
        target = next(n for n in members if n.endswith("data.pkl"))
        if rng.random() < 0.3:
            target = rng.choice(list(members))
        members[target] = mutate_bytes(rng, members[target])
        if rng.random() < 0.1:
            del members[rng.choice(list(members))]
        for name, content in members.items():
            new.writestr(name, content)
    return out.getvalue()


def checkpoints(rng: random.Random, folder: Path) -> None:
    """Checkpoints as files: bytes changed, members changed, values changed."""
    suffix, data = rng.choice(_files())
    path = folder / f"weights{suffix}"
    kind = rng.random()
    if kind < 0.4:
        path.write_bytes(mutate_bytes(rng, data))
    elif kind < 0.6:
        path.write_bytes(_rewritten_zip(rng, _files()[0][1]))
    elif kind < 0.65:
        path.write_bytes(pickle.dumps(nasty_state(rng)) + data)
    else:
        path = folder / "weights.pt"
        _save(_changed_state(rng, _state(rng.choice(["fpn", "classifier", "c4"]))), path, rng)
    if rng.random() < 0.7:
        resdet.load(path, device="cpu")
    else:
        load_backbone(_backbone(), str(path))


@cache
def _backbone() -> torch.nn.Module:
    return build_backbone("golden_tiny", {})


def nasty_state(rng: random.Random) -> Any:
    """A dict that is no state."""
    return {"model": nasty(rng), "config": nasty(rng), "kind": rng.choice(["detector", 5, None])}


def _changed_state(rng: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    """A state with a changed field, or a changed tensor."""
    if rng.random() < 0.6:
        return mutate_tree(rng, state)
    changed = dict(state, model=dict(state["model"]))
    name = rng.choice(list(changed["model"]))
    changed["model"][name] = _changed_tensor(rng, changed["model"][name])
    return changed


def _changed_tensor(rng: random.Random, tensor: torch.Tensor) -> Any:
    match rng.randrange(6):
        case 0:
            return tensor.double()
        case 1:
            return tensor.flatten()[:-1]
        case 2:
            return torch.full_like(tensor, float("nan"), dtype=torch.float32)
        case 3:
            return torch.empty(0)
        case 4:
            return tensor.new_zeros(1).expand(2, 10**6, 10**6)
        case _:
            return tensor.to(rng.choice([torch.complex64, torch.bool, torch.uint8, torch.float16]))


def resume(rng: random.Random, folder: Path) -> None:
    """A run whose last.pt, or another of its files, was changed before it resumes."""
    name = rng.choice(["classifier", "fpn", "c4", "killed"])
    run = folder / "run"
    shutil.copytree(STORED / name, run)
    files = sorted(path for path in run.iterdir() if path.is_file())
    if rng.random() < 0.75:
        _save(_changed_state(rng, _state(name)), run / "last.pt", rng)
    else:
        path = rng.choice(files)
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    steps = _state(name)["step"] + 1
    longer = [f"train.max_steps={steps}"] if rng.random() < 0.5 and name != "killed" else []
    train(None, longer, run_dir=run, resume=True, device="cpu")


@cache
def _images() -> list[tuple[str, bytes]]:
    """(suffix, content) of one picture in many formats and modes."""
    rgb, made = picture(3, 40, 60), list[tuple[str, bytes]]()

    def add(image: Image.Image, suffix: str, format: str, **options: Any) -> None:
        out = io.BytesIO()
        image.save(out, format, **options)
        made.append((suffix, out.getvalue()))

    exif = Image.Exif()
    exif[0x0112] = 6
    add(rgb, ".jpg", "JPEG", exif=exif)
    add(rgb, ".jpg", "JPEG", progressive=True, icc_profile=b"x" * 200)
    add(rgb.convert("CMYK"), ".jpeg", "JPEG")
    add(rgb.convert("L"), ".jpg", "JPEG")
    add(rgb, ".png", "PNG", exif=exif)
    add(rgb.quantize(16), ".png", "PNG", transparency=3)
    add(rgb.convert("RGBA"), ".png", "PNG")
    add(rgb.convert("LA"), ".png", "PNG")
    add(rgb.convert("1"), ".png", "PNG")
    add(Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 16), ".png", "PNG")
    add(rgb, ".tif", "TIFF", compression="tiff_lzw")
    add(rgb.convert("F"), ".tiff", "TIFF")
    add(rgb, ".webp", "WEBP")
    add(rgb, ".gif", "GIF", save_all=True, append_images=[rgb.rotate(9)])
    add(rgb, ".bmp", "BMP")
    add(rgb, ".ppm", "PPM")
    add(rgb, ".jp2", "JPEG2000")
    add(rgb, ".tga", "TGA")
    add(rgb, ".dds", "DDS")
    wide = np.asarray(rgb).astype(np.uint16) * 200
    for suffix in (".png", ".tiff", ".hdr"):
        array = wide.astype(np.float32) if suffix == ".hdr" else wide
        made.append((suffix, cv2.imencode(suffix, array)[1].tobytes()))
    return made


def images(rng: random.Random, folder: Path) -> None:
    """An image file by every way it is read."""
    suffix, data = rng.choice(_images())
    path = folder / f"image{suffix}"
    path.write_bytes(mutate_bytes(rng, data))
    ways: list[Callable[[], object]] = [
        lambda: read_image(path),
        lambda: read_fast(path),
        lambda: read_size(path),
        lambda: open_image(path).fast_pixels(reduce=rng.choice([1, 2, 4, 8])),
        lambda: check_image(io.BytesIO(path.read_bytes()), str(path), whole=rng.random() < 0.5),
    ]
    for way in ways:
        try:
            way()
        except UserError as error:
            assert str(error).strip(), "an error without a message"


NAMES = [
    b"a.png", b"A.PNG", b"\xff\xfe.jpg", "\u00e9.png".encode(), "e\u0301.png".encode(), b"-x.jpg",
    b"=1.png", b" .png", b"a\nb.png", b"\x1b[31m.png", b"detections.json", b"images.json", b"x.mp4",
    b"x.avi", b"._a.png", b"n" * 250 + b".png", b"%s%d.png", b"a'b\".png", b"[0].png", b"a.png.png",
]  # fmt: skip


@cache
def _video() -> bytes:
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    path = folder / f"resdet_fuzz_{os.getpid()}.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (60, 40))
    for number in range(3):
        writer.write(np.full((40, 60, 3), 60 * number, np.uint8))
    writer.release()
    data = path.read_bytes()
    path.unlink()
    return data


def predict(rng: random.Random, folder: Path) -> None:
    """A folder with changed images and videos under odd names."""
    inputs = folder / "in"
    inputs.mkdir()
    for name in rng.sample(NAMES, rng.randrange(1, 4)):
        video = name.endswith((b".mp4", b".avi"))
        data = _video() if video else rng.choice(_images())[1]
        if rng.random() < 0.6:
            data = mutate_bytes(rng, data)
        (inputs / os.fsdecode(name)).write_bytes(data)
    if rng.random() < 0.3:
        sub = inputs / rng.choice(["x", "x.avi", "a.png", "__MACOSX", "sub"])
        if not sub.exists():
            sub.mkdir()
            (sub / "frame_000000.jpg").write_bytes(_images()[0][1])
            (sub / "loop").symlink_to(inputs)
    out = inputs if rng.random() < 0.1 else folder / "out"
    if rng.random() < 0.2:
        out.mkdir(exist_ok=True)
        (out / "images.json").write_bytes(mutate_bytes(rng, b'[{"id": 1, "drawn": "in/a.png"}]'))
    run = STORED / rng.choice(["classifier", "fpn", "mask"])
    more = ["--batch-size", "2"] if rng.random() < 0.3 else []
    command(["predict", str(run), str(inputs), "--out", str(out), "--device", "cpu", *more])
