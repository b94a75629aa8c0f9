"""Several threads predict with one model, each with its own threshold; nothing of it changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import resdet
from resdet.models import predict
from resdet.models.predict import Predictor, inference_mode
from resdet.structures import Classification
from tests.inference.test_combined import combined, detector
from tests.models.test_localizer import make_localizer
from tests.models.tiny_classifier import configured
from tests.models.tiny_detector import make_detector, write_checkpoint

KINDS: dict[str, Callable[[], Predictor[Any]]] = {
    "detector": make_detector,
    "test time": lambda: combined([detector(short_edge=48)], flip=True),
    "ensemble": lambda: combined([detector(short_edge=48), detector(seed=1, short_edge=64)]),
    "classifier": lambda: configured(list("abcdef")),
    "localizer": make_localizer,
}
PIXELS = [
    np.random.default_rng(seed).integers(0, 255, (72 + 8 * seed, 96, 3), dtype=np.uint8)
    for seed in range(1)
]


def numbers(answers: list[Any]) -> list[torch.Tensor]:
    return [
        torch.cat([each.scores, each.labels])
        if isinstance(each, Classification)
        else torch.cat([each.boxes, each.scores[:, None], each.labels[:, None]], dim=1)
        for each in answers
    ]


def state(model: Predictor[Any]) -> list[Any]:
    """Every plain value of every module."""
    plain = (bool, int, float, str, tuple, type(None))
    return [
        (name, {key: value for key, value in vars(module).items() if isinstance(value, plain)})
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_four_threads_do_not_mix_their_thresholds(kind: str) -> None:
    model = KINDS[kind]()
    scores = torch.cat([each.scores for each in model.predict(PIXELS, score_thresh=0.0)])
    thresholds = [None, 0.0, float(scores.median()), float(scores.max())]
    model.train()  # batch norm and dropout would show in the numbers
    expected = [numbers(model.predict(PIXELS, score_thresh=each)) for each in thresholds]
    before = state(model)
    barrier = threading.Barrier(4)

    def work(threshold: float | None) -> list[list[torch.Tensor]]:
        barrier.wait()
        return [numbers(model.predict(PIXELS, score_thresh=threshold)) for _ in range(2)]

    with ThreadPoolExecutor(4) as pool:
        for wanted, answers in zip(expected, pool.map(work, thresholds), strict=True):
            for answer in answers:
                for one, other in zip(answer, wanted, strict=True):
                    torch.testing.assert_close(one, other)
    assert state(model) == before and model.training and not predict._EVALUATING
    assert len({len(torch.cat(each)) for each in expected}) > 1


def test_the_training_mode_comes_back_with_the_last_thread() -> None:
    model = make_detector()
    model.train()
    model.backbone.eval()
    modes = [module.training for module in model.modules()]
    first, second = inference_mode(model), predict._evaluating([model.roi_heads])
    first.__enter__()
    second.__enter__()
    assert not any(module.training for module in model.modules())
    first.__exit__(None, None, None)
    assert model.rpn.training and not model.roi_heads.training
    second.__exit__(None, None, None)
    assert [module.training for module in model.modules()] == modes


def test_loading_leaves_the_current_gpu_alone(tmp_path: Any, monkeypatch: Any) -> None:
    path = write_checkpoint(tmp_path / "best.pt", make_detector())

    def refuse(device: Any) -> None:
        raise AssertionError(f"the current GPU became {device}")

    monkeypatch.setattr(torch.cuda, "set_device", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(Predictor, "place", lambda self, device: places.append(device))
    monkeypatch.setattr("resdet.models.rcnn.RCNN.place", Predictor.place)
    places: list[torch.device] = []
    resdet.load(path, device="cuda:1")
    resdet.load(path)
    assert [str(place) for place in places] == ["cuda:1", "cuda:0"]
