"""The metric against published accuracies, a plain count, and the cases that have no one answer."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from resdet.errors import UserError
from resdet.evaluation.classification import ClassificationEvaluator, Scores, unreadable

PUBLISHED = {
    # Recht et al. 2018 (1806.00451), table 1: accuracy on the CIFAR-10 test set in percent
    "alexnet_tf_ben": 82.0,
    "cudaconvnet": 88.5,
    "darc": 96.6,
    "densenet_BC_100_12": 95.5,
    "nas": 95.4,
    "pyramidnet_basic_110_270": 96.3,
    "pyramidnet_basic_110_84": 95.7,
    "random_features_256k_aug": 85.6,
    "random_features_256k_no_aug": 84.2,
    "random_features_32k_aug": 85.0,
    "random_features_32k_no_aug": 83.3,
    "resnet_basic_110": 93.5,
    "resnet_basic_32": 92.5,
    "resnet_basic_44": 93.0,
    "resnet_basic_56": 93.3,
    "resnet_preact_basic_110": 93.4,
    "resnet_preact_bottleneck_164": 94.2,
    "resnetv2_tf": 92.7,
    "resnext_29_4x64d": 96.4,
    "resnext_29_8x64d": 96.2,
    "shake_drop": 96.9,
    "shake_shake_26_2x32d_SSI": 96.6,
    "shake_shake_26_2x64d_SSI": 97.0,
    "shake_shake_26_2x64d_SSI_cutout16": 97.1,
    "shake_shake_26_2x96d_SSI": 97.1,
    "vgg16_keras": 93.6,
    "vgg_15_BN_64": 93.0,
    "wide_resnet_tf": 95.0,
    "wrn_28_10": 95.9,
    "wrn_28_10_cutout16": 97.0,
}


@pytest.fixture(scope="module")
def predictions(shared_data: Path) -> dict[str, np.ndarray]:
    with np.load(shared_data / "eval_fixtures" / "cifar10_test_predictions_30models.npz") as file:
        return {name: file[name].astype(np.int64) for name in file.files}


def count(logits: torch.Tensor, labels: torch.Tensor) -> ClassificationEvaluator:
    evaluator = ClassificationEvaluator(logits.shape[1])
    evaluator.update([f"image {i}" for i in range(len(labels))], (logits, labels))
    return evaluator


def test_thirty_published_models(predictions: dict[str, np.ndarray]) -> None:
    labels = torch.from_numpy(predictions["labels"])
    assert set(predictions) == {"labels", *PUBLISHED}
    for name in PUBLISHED:
        predicted = predictions[name]
        logits = torch.nn.functional.one_hot(torch.from_numpy(predicted), 10).float()
        evaluator = count(logits, labels)
        found = evaluator.compute().summary
        assert found["top1_percent"] == pytest.approx(PUBLISHED[name], abs=0.0501), name
        assert found["top1_percent"] == pytest.approx(100 * np.mean(predicted == labels.numpy()))
        assert (found["num_images"], found["num_broken"]) == (10_000, 0)
        confusion = evaluator.confusion
        assert confusion.dtype == np.int64 and (confusion.sum(1) == 1000).all()
        assert (confusion.sum(0) == np.bincount(predicted, minlength=10)).all()
        cats_for_dogs = int(((labels.numpy() == 3) & (predicted == 5)).sum())
        assert confusion[3, 5] == cats_for_dogs


def test_top5_of_real_votes_equals_a_plain_count(predictions: dict[str, np.ndarray]) -> None:
    """The votes of thirty models, with many ties, against a stable sort in numpy."""
    labels = predictions["labels"]
    votes = np.stack([np.eye(10)[predictions[name]] for name in PUBLISHED]).sum(0)
    order = np.argsort(-votes, axis=1, kind="stable")
    found = count(torch.from_numpy(votes), torch.from_numpy(labels)).compute().summary
    assert found["top1_percent"] == pytest.approx(100 * np.mean(order[:, 0] == labels))
    hits = (order[:, :5] == labels[:, None]).any(1)
    assert found["top5_percent"] == pytest.approx(100 * np.mean(hits))
    assert found["top1_percent"] == 97.0


def test_equal_logits_give_the_accuracy_of_a_guess() -> None:
    labels = torch.arange(10).repeat(7)
    found = count(torch.zeros(70, 10), labels).compute().summary
    assert found["top1_percent"] == pytest.approx(10) and found["top5_percent"] == pytest.approx(50)
    diverged = count(torch.full((70, 10), torch.nan), labels).compute().summary
    assert diverged == found


def test_nan_ranks_last() -> None:
    logits = torch.tensor([[torch.nan, 1.0, 2.0], [torch.nan, 1.0, 2.0]])
    evaluator = count(logits, torch.tensor([0, 2]))
    assert evaluator.confusion[0, 2] == evaluator.confusion[2, 2] == 1


def test_fewer_than_five_classes_are_all_in_the_top() -> None:
    found = count(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0])).compute().summary
    assert (found["top1_percent"], found["top5_percent"]) == (50, 100)


def test_parts_merged_are_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(101, 12, generator=generator).bfloat16()
    labels = torch.randint(12, (101,), generator=generator)
    labels[[3, 50]] = -1
    names = [f"image {i}" for i in range(101)]
    whole, first, second = (ClassificationEvaluator(12) for _ in range(3))
    whole.update(names, (logits, labels))
    first.update(names[:40], (logits[:40], labels[:40]))
    second.update(names[40:], (logits[40:], labels[40:]))
    first.merge(pickle.loads(pickle.dumps(second.state)))
    assert first.compute() == whole.compute()
    assert (first.confusion == whole.confusion).all()
    assert first.state.broken == whole.state.broken == ["image 3", "image 50"]
    result = whole.compute()
    assert result.summary["num_images"] == 99 and result.summary["num_broken"] == 2
    assert result.best == ("top-1 %", result.summary["top1_percent"])
    assert "2 image(s) could not be read" in result.words


def test_what_cannot_be_counted_is_named() -> None:
    with pytest.raises(UserError, match=r"image 1: its label is 3, and the model has 3 classes"):
        count(torch.zeros(2, 3), torch.tensor([0, 3]))
    evaluator = ClassificationEvaluator(3)
    evaluator.update(["a.jpg"], unreadable(1, 3))
    with pytest.raises(UserError, match=r"1 could not be read, first a\.jpg"):
        evaluator.compute()


def test_scores_are_read_without_pickle(tmp_path: Path) -> None:
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    scores = Scores(logits, np.array([2, 0]), ["a/ü.jpg", "b.jpg"], ["x", "y", "z"], ["c.jpg"])
    assert scores.feed(ClassificationEvaluator(3)).compute().summary == {
        "top1_percent": 50,
        "top5_percent": 100,
        "num_images": 2,
        "num_broken": 1,
    }
    scores.save(tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as file:
        assert file["logits"].dtype == np.float32 and (file["logits"] == logits).all()
        assert file["labels"].dtype == np.int64 and file["labels"].tolist() == [2, 0]
        assert file["files"].tolist() == ["a/ü.jpg", "b.jpg"]
        assert file["class_names"].tolist() == ["x", "y", "z"]
    assert not list(tmp_path.glob(".*.tmp"))
