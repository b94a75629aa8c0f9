"""What clients send and get, over real sockets and through a real small detector."""

import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resdet.errors import UserError
from resdet.inference.combined import CombinedDetector
from resdet.inference.exported import load_exported
from resdet.models.predict import Predictor
from resdet.models.rcnn import RCNN
from resdet.serving.settings import Settings
from tests.inference.handmade import write_detector
from tests.models.test_localizer import make_localizer
from tests.models.tiny_classifier import configured
from tests.serving.running import Running, running
from tests.serving.slow_model import SlowModel

LIMITS = Settings(max_upload_mb=0.2, max_pixels=300_000, max_batch=4, max_requests=16)


@pytest.fixture(scope="module")
def server(model: RCNN) -> Iterator[Running]:
    with running(model, LIMITS) as one:
        yield one


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(width: int = 90, height: int = 60, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def error(status: int, answer: object) -> str:
    """The sentence of an answer that must have this status."""
    assert answer.status_code == status, answer.text  # type: ignore[attr-defined]
    (text,) = answer.json().values()  # type: ignore[attr-defined]
    assert isinstance(text, str) and text
    return text


def test_json_is_what_the_model_predicts(server: Running, model: RCNN) -> None:
    image = picture()
    answer = server.post(encoded(image), params={"score_thresh": 0.01, "masks": "rle"})
    assert answer.status_code == 200
    expected = model.predict(image, score_thresh=0.01)
    found = answer.json()["detections"]
    assert len(found) == len(expected) > 0
    for record, theirs in zip(found, expected.to_coco(1), strict=True):
        assert record["score"] == pytest.approx(theirs["score"], rel=1e-4)
        assert record["rle"] == theirs["segmentation"]
    assert {"decode", "queue", "model", "encode"} == {
        step.split(";")[0].strip() for step in answer.headers["server-timing"].split(",")
    }
    assert answer.headers["cache-control"] == "no-store"


def test_a_form_a_body_and_any_content_type_are_alike(server: Running) -> None:
    data, query = encoded(picture()), {"score_thresh": 0}
    plain = server.post(data, params=query).json()
    form = server.client.post("/predict", params=query, files={"whatever": ("a/../b", data)})
    lying = server.post(data, params=query, headers={"content-type": "text/plain"})
    chunked = server.client.post("/predict", params=query, content=iter([data[:50], data[50:]]))
    assert plain == form.json() == lying.json() == chunked.json()


@pytest.mark.parametrize(
    ("query", "accept", "is_drawn"),
    [
        ("?draw", "*/*", True),
        ("?draw=true", "application/json", True),
        ("", "image/png", True),
        ("", "image/*;q=.8,application/json;q=.3", True),
        ("", "image/png,application/json", False),
        ("?draw=0", "text/html,*/*;q=x", False),
    ],
)
def test_a_drawing_is_asked_for_in_two_ways(
    server: Running, query: str, accept: str, is_drawn: bool
) -> None:
    data = encoded(picture())
    answer = server.client.post(f"/predict{query}", content=data, headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == ("image/png" if is_drawn else "application/json")
    if is_drawn:
        assert Image.open(io.BytesIO(answer.content)).size == (90, 60)


def huge() -> bytes:
    """A PNG file of a few bytes whose header announces 3.6 gigapixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def animation() -> bytes:
    frames = [picture(seed=seed) for seed in range(3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


BAD = {
    "empty": (b"", 400, "no image"),
    "text": (b"not an image", 400, "not an image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 400, "not an image"),
    "zip": (b"PK\x03\x04" + bytes(200), 400, "not an image"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), 400, ""),
    "cut short": (encoded(picture())[:4000], 400, "damaged"),
    "cut JPEG": (encoded(picture(), "JPEG")[:900], 400, ""),
    "header only": (encoded(picture())[:20], 400, ""),
    "bomb": (huge(), 413, "60000×60000 pixels"),
    "too many pixels": (encoded(Image.new("1", (600, 600))), 413, "600×600 pixels"),
    "too many bytes": (bytes(250_000), 413, "200,000 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_one_sentence(server: Running, name: str) -> None:
    data, status, words = BAD[name]
    for answer in (
        server.post(data),
        server.client.post("/predict", files={"image": ("x.png", data)}),
        server.client.post("/predict", content=iter([data[:10], data[10:]])),
    ):
        assert words in error(status, answer)
        assert "Traceback" not in answer.text


TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + bytes(4)
"""EXIF data with orientation 6."""
GOOD = {
    "one pixel": (encoded(picture(1, 1)), (1, 1)),
    "one row": (encoded(picture(300, 1)), (300, 1)),
    "16 bits": (encoded(Image.fromarray(np.full((20, 30), 40_000, np.uint16))), (30, 20)),
    "CMYK": (encoded(picture().convert("CMYK"), "JPEG"), (90, 60)),
    "palette": (encoded(picture().convert("P")), (90, 60)),
    "transparent": (encoded(picture().convert("RGBA"), "WEBP"), (90, 60)),
    "animation": (animation(), (90, 60)),
    "turned": (encoded(picture(), "JPEG", exif=TURNED), (60, 90)),
    "TIFF": (encoded(picture(), "TIFF"), (90, 60)),
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_images_are_right(server: Running, name: str) -> None:
    data, (width, height) = GOOD[name]
    answer = server.post(data).json()
    assert (answer["width"], answer["height"]) == (width, height)


def test_wrong_forms_and_parameters_are_named(server: Running) -> None:
    data = encoded(picture())
    two = [("a", ("a.png", data)), ("b", ("b.png", data))]
    assert "2 files" in error(400, server.client.post("/predict", files=two))
    assert "0 files" in error(
        400,
        server.client.post("/predict", files={"note": (None, "no file")}),
    )
    assert "multipart" in error(415, server.client.post("/predict", data={"a": "b"}))
    broken = {"content-type": "multipart/form-data; boundary=x"}
    error(400, server.post(b"--y\r\n\r\nrubbish", headers=broken))
    error(400, server.post(data, headers={"content-type": "multipart/form-data"}))
    assert "score_thresh: " in error(422, server.post(data, params={"score_thresh": "nan"}))
    assert "score_thresh: " in error(422, server.post(data, params={"score_thresh": 1.5}))
    assert "masks: " in error(422, server.post(data, params={"masks": "all"}))
    assert "/predict" in error(404, server.client.get("/../../etc/passwd"))
    error(404, server.client.get("/docs"))
    error(405, server.client.get("/predict"))


def test_routes_for_programs(server: Running) -> None:
    assert server.client.get("/health").json() == {"status": "ready"}
    known = server.client.get("/model").json()
    assert known["task"] == "detection" and known["has_masks"]
    assert known["class_names"] == ["cell", "dirt"] and known["max_pixels"] == 300_000
    schema = server.client.get("/openapi.json").json()
    assert "multipart/form-data" in schema["paths"]["/predict"]["post"]["requestBody"]["content"]
    responses = schema["paths"]["/predict"]["post"]["responses"]
    assert {"200", "413", "503"} <= set(responses) and "HTTPValidationError" not in str(schema)
    server.post(encoded(picture()))
    text = server.client.get("/metrics").text
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert float(numbers['resdet_requests_total{route="/predict",status="200"}']) >= 1
    assert float(numbers["resdet_batch_size_count"]) >= 1
    assert numbers["resdet_ready"] == "1" and float(numbers["resdet_queue_length"]) == 0


def test_a_classifier_answers_with_classes() -> None:
    classifier = configured(["cat", "dog", "owl"])
    image = picture(40, 30)
    with running(classifier) as server:
        answer = server.post(encoded(image)).json()
        expected = classifier.predict(image).to_records()
        assert [each["name"] for each in answer["classes"]] == [each["name"] for each in expected]
        assert answer["classes"][0]["score"] == pytest.approx(expected[0]["score"], rel=1e-4)
        drawn = server.post(encoded(image), headers={"accept": "image/png"})
        assert Image.open(io.BytesIO(drawn.content)).width == 360
        assert server.client.get("/model").json()["task"] == "classification"


def ensemble(detector: RCNN, folder: Path) -> Predictor:
    return CombinedDetector([detector, detector], detector.config.test, ["a", "b"])


def exported(detector: RCNN, folder: Path) -> Predictor:
    return load_exported(write_detector(folder / "cells.onnx"))


@pytest.mark.parametrize(
    "make", [ensemble, exported, lambda *_: make_localizer()], ids=["ensemble", "exported", "loc"]
)
def test_every_kind_of_model_is_served(
    make: Callable[[RCNN, Path], Predictor], model: RCNN, tmp_path: Path
) -> None:
    served, image = make(model, tmp_path), picture(96, 64)
    with running(served) as server:
        lowest = server.client.get("/model").json()["lowest_score"]
        query = {"score_thresh": lowest}
        found = server.post(encoded(image), params=query).json()["detections"]
        expected = served.predict(image, score_thresh=lowest)
        assert [each["label"] for each in found] == expected.labels.tolist()
        if lowest:
            assert "give at least" in error(
                400, server.post(encoded(image), params={"score_thresh": 0})
            )


def test_the_server_answers_before_the_model_is_loaded() -> None:
    slow, go = SlowModel(), threading.Event()

    def load() -> SlowModel:
        assert go.wait(20)
        return slow

    with running(slow, load=load, wait=False) as server:
        for answer in (server.client.get("/health"), server.post(encoded(picture()))):
            assert "being loaded" in error(503, answer)
            assert answer.headers["retry-after"]
        assert server.client.get("/").status_code == 200
        go.set()
        while server.client.get("/health").status_code != 200:
            time.sleep(0.02)


def test_a_model_that_does_not_load_ends_the_server() -> None:
    def load() -> SlowModel:
        raise UserError("runs/x: no such run")

    with running(SlowModel(), load=load, wait=False) as server:
        server.thread.join(20)
        assert not server.thread.is_alive()
        assert str(server.service.failure) == "runs/x: no such run"
        server.service.failure = None


def held(model: SlowModel, server: Running, pool: ThreadPoolExecutor) -> object:
    """A request that the network is held up with."""
    model.go.clear()
    model.started.clear()
    future = pool.submit(server.post, encoded(picture()))
    assert model.started.wait(10)
    return future


def test_what_is_too_late_is_not_computed() -> None:
    model = SlowModel()
    settings = Settings(max_batch=1, timeout_s=0.5, max_requests=2)
    with running(model, settings) as server, ThreadPoolExecutor() as pool:
        model.batches.clear()
        running_one = held(model, server, pool)
        queued = pool.submit(server.post, encoded(picture(seed=1)))
        while server.service.in_progress < 2:
            time.sleep(0.01)
        refused = server.post(encoded(picture(seed=2)))
        assert "2 requests are in progress" in error(503, refused)
        assert refused.headers["retry-after"] == "1"
        assert "waited for 0.5 s" in error(503, queued.result())
        assert "network took longer" in error(504, running_one.result())  # type: ignore[attr-defined]
        model.go.set()
        assert server.post(encoded(picture(seed=3))).status_code == 200
        assert len(model.batches) == 2


def test_a_client_that_leaves_is_not_computed() -> None:
    model = SlowModel()
    with running(model, Settings(max_batch=1)) as server, ThreadPoolExecutor() as pool:
        model.batches.clear()
        first = held(model, server, pool)
        data = encoded(picture(seed=1))
        with socket.create_connection(("127.0.0.1", server.client.base_url.port)) as leaving:
            head = (
                f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            leaving.sendall(head.encode() + data)
            while "resdet_queue_length 1" not in server.client.get("/metrics").text:
                time.sleep(0.01)
        while server.service.in_progress > 1:
            time.sleep(0.01)
        model.go.set()
        assert first.result().status_code == 200  # type: ignore[attr-defined]
        assert server.post(encoded(picture(seed=2))).status_code == 200
        assert len(model.batches) == 2
        assert 'status="499"' in server.client.get("/metrics").text


def test_an_upload_that_never_ends_is_given_up() -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx"
    with (
        running(SlowModel(), Settings(timeout_s=0.3)) as server,
        socket.create_connection(("127.0.0.1", server.client.base_url.port)) as slow,
    ):
        slow.sendall(head)
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_requests_in_progress_are_finished_at_the_end() -> None:
    model = SlowModel()
    with running(model, Settings(max_batch=1)) as server, ThreadPoolExecutor() as pool:
        first = held(model, server, pool)
        queued = pool.submit(server.post, encoded(picture(seed=1)))
        while server.service.in_progress < 2:
            time.sleep(0.01)
        server.stop()
        time.sleep(0.3)
        model.go.set()
        assert first.result().status_code == queued.result().status_code == 200  # type: ignore[attr-defined]
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_a_bug_is_a_500_without_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    green = Image.fromarray(np.full((4, 4, 3), (0, 255, 0), np.uint8))
    with running(SlowModel()) as server:
        assert "log has the reason" in error(500, server.post(encoded(green)))
        assert server.post(encoded(picture())).status_code == 200
    assert "a bug of the network" in capsys.readouterr().err


def test_many_clients_at_once(server: Running, nuclei: Path) -> None:
    files = [path.read_bytes() for path in sorted((nuclei / "images").iterdir())[:6]]
    small = [data for data in files if len(data) < LIMITS.max_upload]
    good = [(data, 200) for data in [*small, *(each[0] for each in GOOD.values())]]
    bad = [(data, status) for data, status, _ in BAD.values()]
    sent = [[*good, *bad][i % (len(good) + len(bad))] for i in range(40)]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda each: server.post(each[0]), sent))
    assert [answer.status_code for answer in answers] == [status for _, status in sent]
    assert all(json.loads(answer.content) for answer in answers)
    assert server.service.in_progress == 0
