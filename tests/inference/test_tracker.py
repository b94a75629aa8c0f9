"""The tracker on hand-made motion, and its filter against the textbook's matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from resdet.inference.tracker import MAX_LOST, STD_PLACE, STD_VELOCITY, Tracker
from resdet.structures import Detections

Box = tuple[float, float, float, float]


def detections(
    boxes: Sequence[Box], scores: Sequence[float] | None = None, labels: Sequence[int] | None = None
) -> Detections:
    count = len(boxes)
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(count, 4),
        scores=torch.tensor(scores or [0.9] * count),
        labels=torch.tensor(labels or [0] * count, dtype=torch.int64),
        image_size=(480, 640),
    )


def box(x: float, y: float, wide: float = 40, high: float = 60) -> Box:
    """By its centre."""
    return x - wide / 2, y - high / 2, x + wide / 2, y + high / 2


def ids(found: Detections) -> list[int]:
    assert found.track_ids is not None
    return found.track_ids.tolist()


def crossing(noise: float = 1.0) -> Iterator[tuple[int, Box, Box]]:
    """Two objects that walk through each other in 60 frames, seen with noise."""
    random = np.random.default_rng(3)
    for frame in range(60):
        shake = random.normal(0, noise, (2, 2))
        left, right = 100 + 5 * frame, 400 - 5 * frame
        yield (
            frame,
            box(left + shake[0, 0], 200 + shake[0, 1]),
            box(right + shake[1, 0], 215 + shake[1, 1]),
        )


def test_ids_stay_through_a_crossing_whatever_the_order() -> None:
    tracker, random = Tracker(0.5), np.random.default_rng(0)
    for frame, first, second in crossing():
        order = random.permutation(2) if frame else np.arange(2)
        found = tracker.update(detections([(first, second)[each] for each in order]))
        assert ids(found) == [int(each) + 1 for each in order], f"frame {frame}"


def test_ids_stay_through_an_occlusion() -> None:
    """In the middle of the crossing the one behind is hidden for twelve frames."""
    tracker, seen = Tracker(0.5), []
    for frame, first, second in crossing():
        hidden = 24 <= frame < 36
        found = tracker.update(detections([first] if hidden else [first, second]))
        assert ids(found) == ([1] if hidden else [1, 2]), f"frame {frame}"
        seen.append(len(found))
    assert seen.count(1) == 12


def test_a_track_ends_and_ids_are_not_given_again() -> None:
    tracker = Tracker(0.5)
    assert ids(tracker.update(detections([box(100, 100)]))) == [1]
    for _ in range(MAX_LOST):
        assert ids(tracker.update(detections([]))) == []
    assert ids(tracker.update(detections([box(100, 100)]))) == [1]
    for _ in range(MAX_LOST + 1):
        tracker.update(detections([]))
    assert ids(tracker.update(detections([box(100, 100)]))) == [2]


def test_classes_are_tracked_apart() -> None:
    """A rider and a horse at nearly the same place, whose scores take turns."""
    tracker = Tracker(0.5)
    for frame in range(20):
        places, labels = [box(100 + 4 * frame, 90), box(101 + 4 * frame, 92)], [3, 8]
        turn = frame % 2
        found = tracker.update(
            detections(places[::-1] if turn else places, labels=labels[::-1] if turn else labels)
        )
        assert ids(found) == ([2, 1] if turn else [1, 2])
        assert found.labels.tolist() == (labels[::-1] if turn else labels)


def test_low_scores_continue_tracks_and_start_none() -> None:
    """ByteTrack's case: half hidden, an object is detected with a low score."""
    tracker = Tracker(0.5)
    for frame in range(30):
        score = 0.2 if 10 <= frame < 20 else 0.9
        found = tracker.update(detections([box(100 + 3 * frame, 100), box(500, 300)], [score, 0.3]))
        assert ids(found) == [1], f"frame {frame}"
    assert tracker.update(detections([box(400, 100)], [0.5])).scores.tolist() == []


def test_what_was_lost_does_not_come_back_by_a_low_score() -> None:
    tracker = Tracker(0.5)
    tracker.update(detections([box(100, 100)]))
    tracker.update(detections([]))
    assert len(tracker.update(detections([box(100, 100)], [0.3]))) == 0
    assert ids(tracker.update(detections([box(100, 100)], [0.6]))) == [1]


@pytest.mark.parametrize("missing", [1, 5])
def test_the_filter_is_kalmans(missing: int) -> None:
    """Predictions and corrections equal those of the 8×8 matrices of the textbook."""
    tracker = Tracker(0.5)
    motion = np.eye(8) + np.eye(8, k=4)
    random = np.random.default_rng(1)
    measures = [np.array([100 + 3 * k, 80 + 2 * k, 40, 60.0]) for k in range(12)]
    measures = [each + random.normal(0, 0.5, 4) for each in measures]
    mean = np.concatenate([measures[0], np.zeros(4)])
    side = mean[[2, 3, 2, 3]]
    spread = np.concatenate([2 * STD_PLACE * side, 10 * STD_VELOCITY * side])
    covariance = np.diag(spread**2)
    look = np.eye(4, 8)
    for frame, measure in enumerate(measures):
        x, y, wide, high = measure
        is_seen = frame < 4 or frame >= 4 + missing
        tracker.update(detections([box(x, y, wide, high)] if is_seen else []))
        if frame:
            if frame > 4 and not (frame < 4 or frame - 1 >= 4 + missing):
                mean[6:] = 0
            side = mean[[2, 3, 2, 3]]
            noise = np.concatenate([STD_PLACE * side, STD_VELOCITY * side]) ** 2
            mean = motion @ mean
            covariance = motion @ covariance @ motion.T + np.diag(noise)
            if is_seen:
                noise = np.diag((STD_PLACE * mean[[2, 3, 2, 3]]) ** 2)
                gain = covariance @ look.T @ np.linalg.inv(look @ covariance @ look.T + noise)
                mean = mean + gain @ (measure - look @ mean)
                covariance = (np.eye(8) - gain @ look) @ covariance
        ours = np.concatenate([tracker._means[0, :, 0], tracker._means[0, :, 1]])
        np.testing.assert_allclose(ours, mean, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(tracker._covariances[0, :, 0, 0], np.diag(covariance)[:4], rtol=1e-5)


def test_many_tracks_cost_no_memory() -> None:
    """Objects that come and go: what has ended is forgotten."""
    tracker = Tracker(0.5)
    for frame in range(150):
        tracker.update(detections([box(20 + 37 * frame % 600, 20 + 53 * frame % 440, 8, 8)]))
    assert len(tracker._ids) <= MAX_LOST + 1
    assert tracker._next_id > 100
