"""A tracker of detections through the frames of a video: SORT with a second pass over low scores.

Each track predicts its box by constant velocity (a Kalman filter); boxes and predictions of one
class are paired so that the sum of their IoUs is largest [Bewley et al. 2016, arXiv 1602.00763].
Tracks without a pair look among the detections with low scores, which start no tracks [ByteTrack,
Zhang et al. 2022, arXiv 2110.06864, 3]. The noise grows with the size of the box [DeepSORT, Wojke
et al. 2017, arXiv 1703.07402, 2.1], here for (x, y, width, height) as in BoT-SORT [Aharon et al.
2022, arXiv 2206.14651, 3.1].
"""

import numpy as np
import torch
from numpy.typing import NDArray

from resdet.ops.boxes import pairwise_iou
from resdet.structures import TRACK_ID, Detections

LOW_THRESH = 0.1
"""Least score of a detection that continues a track [ByteTrack]."""
MIN_IOU, MIN_IOU_LOW = 0.3, 0.5
"""Of a pair: of SORT, and of ByteTrack's second pass."""
MAX_LOST = 30
"""Frames after which a track that is not seen ends [DeepSORT, ByteTrack]."""
STD_PLACE, STD_VELOCITY = 1 / 20, 1 / 160
"""Standard deviations per frame, as fractions of the box's sides [DeepSORT]."""

Floats = NDArray[np.float64]


class Tracker:
    """The tracks of one video; `update` takes its frames in order."""

    def __init__(self, score_thresh: float) -> None:
        """Detections above `score_thresh` start tracks."""
        self.score_thresh = score_thresh
        self._next_id = 1
        self._ids: NDArray[np.int64] = np.zeros(0, np.int64)
        self._labels: NDArray[np.int64] = np.zeros(0, np.int64)
        self._lost: NDArray[np.int64] = np.zeros(0, np.int64)
        """Frames since a track was seen."""
        # A filter per number of a box: noise and motion mix none of them
        self._means: Floats = np.zeros((0, 4, 2))
        """(T, 4, 2) position and velocity per frame of centre x and y, width and height."""
        self._covariances: Floats = np.zeros((0, 4, 2, 2))

    def update(self, found: Detections) -> Detections:
        """The detections of the next frame that start or continue a track, with their ids.

        `found` are those above `LOW_THRESH` or the score threshold, whichever is lower.
        """
        self._predict()
        boxes, labels = found.boxes.cpu().double().numpy(), found.labels.cpu().numpy()
        high = found.scores.cpu().numpy() > self.score_thresh
        track_of = np.full(len(found), -1)
        for rows, min_iou in ((high, MIN_IOU), (~high, MIN_IOU_LOW)):
            free = np.setdiff1d(np.arange(len(self._ids)), track_of)
            own = np.flatnonzero(rows)
            if min_iou == MIN_IOU_LOW:  # what was lost before does not come back by a low score
                free = free[self._lost[free] == 1]
            pairs = self._pairs(free, boxes[own], labels[own], min_iou)
            track_of[own[pairs[1]]] = free[pairs[0]]
        seen = np.flatnonzero(track_of >= 0)
        self._correct(track_of[seen], _to_measures(boxes[seen]))
        born = np.flatnonzero(high & (track_of < 0))
        track_of[born] = len(self._ids) + np.arange(len(born))
        self._start(_to_measures(boxes[born]), labels[born])
        kept = np.flatnonzero(track_of >= 0)
        ids = self._ids[track_of[kept]]
        self._keep(self._lost <= MAX_LOST)
        picked = found[torch.from_numpy(kept).to(found.scores.device)]
        picked.extra[TRACK_ID] = torch.from_numpy(ids).to(found.scores.device)
        return picked

    def _pairs(
        self, tracks: NDArray[np.int64], boxes: Floats, labels: NDArray[np.int64], min_iou: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in `tracks` and in `boxes` (n, 4) xyxy that belong together."""
        from scipy.optimize import linear_sum_assignment

        if len(tracks) == 0 or len(boxes) == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        predicted = _to_boxes(self._means[tracks, :, 0])
        ious = pairwise_iou(torch.from_numpy(predicted), torch.from_numpy(boxes)).numpy()
        ious[self._labels[tracks][:, None] != labels] = 0
        first, second = linear_sum_assignment(ious, maximize=True)
        good = ious[first, second] >= min_iou
        return first[good], second[good]

    def _predict(self) -> None:
        """Move all tracks on by one frame."""
        # of an object out of sight the size stays, as its edges were moving behind something
        self._means[self._lost > 0, 2:, 1] = 0
        std = np.maximum(self._means[:, [2, 3, 2, 3], 0], 1)
        motion = np.array([[1.0, 1.0], [0.0, 1.0]])
        self._means = self._means @ motion.T
        noise = std[..., None] * np.array([STD_PLACE, STD_VELOCITY])
        self._covariances = motion @ self._covariances @ motion.T + _diagonal(noise)
        self._lost += 1

    def _correct(self, tracks: NDArray[np.int64], measures: Floats) -> None:
        """Kalman's update of tracks by the boxes (n, 4) that were paired with them."""
        means, covariances = self._means[tracks], self._covariances[tracks]
        noise = (STD_PLACE * np.maximum(means[:, [2, 3, 2, 3], 0], 1)) ** 2
        # what is measured is the position alone: one number per filter
        gain = covariances[..., 0] / (covariances[..., 0, 0] + noise)[..., None]
        self._means[tracks] = means + gain * (measures - means[..., 0])[..., None]
        self._covariances[tracks] = covariances - gain[..., None] * covariances[..., :1, :]
        self._lost[tracks] = 0

    def _start(self, measures: Floats, labels: NDArray[np.int64]) -> None:
        """Add tracks at boxes (n, 4), at rest and uncertain of it."""
        means = np.stack([measures, np.zeros_like(measures)], axis=-1)
        sides = np.maximum(measures[:, [2, 3, 2, 3]], 1)
        noise = sides[..., None] * np.array([2 * STD_PLACE, 10 * STD_VELOCITY])
        ids = self._next_id + np.arange(len(labels))
        self._next_id += len(labels)
        self._ids = np.concatenate([self._ids, ids])
        self._labels = np.concatenate([self._labels, labels])
        self._lost = np.concatenate([self._lost, np.zeros(len(labels), np.int64)])
        self._means = np.concatenate([self._means, means])
        self._covariances = np.concatenate([self._covariances, _diagonal(noise)])

    def _keep(self, rows: NDArray[np.bool_]) -> None:
        for name in ("_ids", "_labels", "_lost", "_means", "_covariances"):
            setattr(self, name, getattr(self, name)[rows])


def _diagonal(std: Floats) -> Floats:
    """(…, 2) standard deviations → (…, 2, 2) covariances."""
    return np.asarray((std**2)[..., None] * np.eye(2))


def _to_measures(boxes: Floats) -> Floats:
    """(n, 4) xyxy → centre x and y, width, height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes[:, :2] + sides / 2, sides], axis=1)


def _to_boxes(measures: Floats) -> Floats:
    """(n, 4) centre x and y, width, height → xyxy."""
    half = np.maximum(measures[:, 2:], 0) / 2
    return np.concatenate([measures[:, :2] - half, measures[:, :2] + half], axis=1)
