"""Large images that are sent to a server: predicted in tiles, within the limits of others."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from resdet.errors import UserError
from resdet.inference.loading import load_models
from resdet.models.rcnn import RCNN
from resdet.serving.settings import Settings
from tests.models.tiny_detector import write_checkpoint
from tests.serving.running import running
from tests.serving.slow_model import SlowModel
from tests.serving.test_api import encoded, error, picture


def test_a_run_on_tiles_is_served_in_tiles(model: RCNN, tmp_path: Path) -> None:
    """Those of its config, which the image that is drawn and the limits do not change."""
    run = write_checkpoint(tmp_path / "run" / "best.pt", model)
    tiled = load_models([run], overrides=["data.tile.size=96", "data.tile.overlap=.25"])
    image = picture(200, 120)
    with running(tiled, Settings(max_pixels=30_000)) as server:
        assert server.client.get("/model").json()["tile"] == {"size": 96, "overlap": 0.25}
        query = {"score_thresh": 0.01, "masks": "rle"}
        found = server.post(encoded(image), params=query).json()["detections"]
        expected = tiled.predict(image, score_thresh=0.01).to_coco(1)
        assert [each["rle"] for each in found] == [each["segmentation"] for each in expected]
        assert max(each["box"][2] for each in found) > 150
        polygons = server.post(encoded(image), params={**query, "masks": "polygons"}).json()
        assert len(polygons["detections"]) == len(found) and "warning" not in polygons
        drawn = server.post(encoded(image), params={"draw": True})
        assert drawn.headers["content-type"] == "image/png"
        assert "more than max_pixels" in error(413, server.post(encoded(picture(200, 160))))
        assert "damaged" in error(400, server.post(encoded(image)[:5000]))


def test_tiles_of_the_options(model: RCNN) -> None:
    image = picture(150, 90)
    with running(model, Settings(tile=80, overlap=0.1, max_batch=3)) as server:
        found = server.post(encoded(image), params={"score_thresh": 0.01}).json()["detections"]
        expected = model.predict(image, tile=80, overlap=0.1, score_thresh=0.01)
        assert [each["label"] for each in found] == expected.labels.tolist()
    with running(SlowModel(), Settings(tile=80), wait=False) as server:
        server.thread.join(20)
        assert isinstance(server.service.failure, UserError)
        assert "--tile: only detectors predict in tiles" in str(server.service.failure)
        server.service.failure = None


class SlowTiles(SlowModel):
    """Works on tiles."""

    tile_scale, has_masks = 1.0, False

    def prepare(self, pixels: np.ndarray, *, is_tile: bool = False) -> Tensor:
        return super().prepare(pixels)


def test_an_image_that_nobody_waits_for_is_given_up() -> None:
    """After a tile or two of nine: the next image gets the network."""
    model = SlowTiles()
    settings = Settings(tile=32, overlap=0.0, max_batch=1, timeout_s=0.5)
    with running(model, settings) as server, ThreadPoolExecutor() as pool:
        model.batches.clear()
        model.go.clear()
        late = pool.submit(server.post, encoded(Image.new("RGB", (96, 96), "red")))
        assert "network took longer" in error(504, late.result())
        model.go.set()
        assert server.post(encoded(picture(20, 20))).status_code == 200
        assert len(model.batches) <= 3
        while server.service.in_progress:
            time.sleep(0.01)
