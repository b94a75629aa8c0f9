"""The mean of softmaxes, against its definition in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from resdet.errors import UserError
from resdet.evaluation.classification import ClassificationEvaluator, Scores
from resdet.inference.test_time import ensemble, log_mean_softmax

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def made(seed: int, **changes: object) -> Scores:
    logits = np.random.default_rng(seed).normal(size=(9, 4)).astype(np.float32) * 5
    scores = Scores(logits, np.arange(9) % 4, [f"{i}.jpg" for i in range(9)], list("abcd"))
    for key, value in changes.items():
        setattr(scores, key, value)
    return scores


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_mean_of_softmax() -> None:
    members = [made(seed) for seed in range(3)]
    together = ensemble(members, ["x", "y", "z"])
    expected = np.mean([softmax(each.logits) for each in members], axis=0)
    np.testing.assert_allclose(np.exp(together.logits), expected, rtol=1e-5)
    np.testing.assert_allclose(softmax(together.logits), expected, rtol=1e-5)
    assert together.logits.dtype == np.float32
    assert together.files == members[0].files and together.class_names == list("abcd")


def test_means_of_means_and_shifted_logits_are_the_same() -> None:
    """Logits are known up to a constant; so are those of an ensemble of ensembles."""
    a, b = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1))
    once = log_mean_softmax(torch.stack([a, b, a, b]))
    twice = log_mean_softmax(torch.stack([log_mean_softmax(torch.stack([a + 100, b])), once]))
    torch.testing.assert_close(twice, once)


def test_impossible_classes_keep_their_order() -> None:
    logits = torch.tensor([[[0.0, -200.0, -300.0]], [[0.0, -201.0, -299.0]]])
    found = log_mean_softmax(logits)[0]
    assert torch.isfinite(found).all() and found[0] > found[1] > found[2]


def test_real_models_are_better_together(shared_data: Path) -> None:
    """Three ResNets' published CIFAR-10 predictions, as near-certain logits."""
    path = shared_data / "eval_fixtures" / "cifar10_test_predictions_30models.npz"
    members = []
    with np.load(path) as file:
        labels = file["labels"].astype(np.int64)
        for name in ("resnet_basic_32", "resnet_basic_44", "resnet_basic_56"):
            logits = 6 * np.eye(10, dtype=np.float32)[file[name]]
            members.append(Scores(logits, labels, [str(i) for i in range(10_000)], NAMES))
    members.append(ensemble(members, ["32", "44", "56"]))
    counted = [scores.feed(ClassificationEvaluator(10)).compute().summary for scores in members]
    *alone, together = (summary["top1_percent"] for summary in counted)
    assert alone == pytest.approx([92.52, 93.01, 93.30])
    assert together > max(alone)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"class_names": list("abdc")}, "classes"),
        ({"files": ["other.jpg"] * 9}, "images"),
        ({"labels": np.zeros(9, np.int64)}, "labels"),
    ],
)
def test_members_must_have_seen_the_same(changes: dict[str, object], what: str) -> None:
    with pytest.raises(UserError, match=f"same {what}: those of runs/b are not those of runs/a"):
        ensemble([made(0), made(1, **changes)], ["runs/a", "runs/b"])
