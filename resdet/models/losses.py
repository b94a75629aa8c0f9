"""Losses of boxes and of classifiers, with denominators that hold over all processes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from resdet.ops.boxes import decode_boxes, encode_boxes, giou_loss
from resdet.ops.pixels import soft_targets

_is_alone = False
"""Whether losses leave out the samples of other processes."""


@contextmanager
def without_other_processes() -> Iterator[None]:
    """Inside, the losses of this process wait for no other one."""
    global _is_alone
    _is_alone = True
    try:
        yield
    finally:
        _is_alone = False


def mean_over_processes(total: Tensor, count: Tensor) -> Tensor:
    """`total` / `count`, both scalars of this process, as a mean over every process's samples.

    DDP averages gradients over processes, so the local sum is divided by the mean local count:
    the averaged gradient is then that of one process with the whole batch. A count of 0 gives 0.
    Without gradients, as in validation, processes may have different numbers of batches, and each
    divides by its own count without waiting for the others.
    """
    count = count.detach().to(total.dtype)
    is_shared = torch.is_grad_enabled() and not _is_alone
    if is_shared and dist.is_available() and dist.is_initialized():
        count = count.clone()
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return torch.where(count > 0, total / count.clamp(min=1e-6), total * 0)


def full_precision(x: Tensor) -> Tensor:
    """Half precision to float32, which every loss is computed in; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def region_loss(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    focal_gamma: float,
    weights: Tensor | None,
) -> Tensor:
    """Mean of (1 − p)^γ · −log p over `valid` (R,) regions of all processes, where p (R,) is the
    softmax score of the right class among logits (R, C).

    γ 0 is the cross-entropy. Others are the focal loss, which Lin et al. 2017 (3.2) extend to
    several classes in this way; here easy regions, mostly background, count for less. With
    `weights` (C,) it is the weighted mean, as PyTorch's: divided by the weights' sum.
    """
    loss = F.cross_entropy(logits, labels, reduction="none")
    if focal_gamma:
        # 1 − p without cancellation; the factor has a gradient too
        loss = (-torch.expm1(-loss)).clamp(min=1e-12) ** focal_gamma * loss
    if weights is None:
        return mean_over_processes(_kept(loss, valid), valid.sum())
    of_region = weights.to(loss.dtype)[labels]
    return mean_over_processes(_kept(loss * of_region, valid), _kept(of_region, valid))


def _kept(values: Tensor, valid: Tensor) -> Tensor:
    """The sum of the values where `valid`; the others may hold anything."""
    return torch.where(valid, values, values.new_zeros(())).sum()


def class_weights(counts: Sequence[int], *, power: float) -> list[float]:
    """Of K classes with so many objects each, in proportion to count^−power and 1 on average over
    the objects; 1 for classes without any.

    Power 1 gives each class the same weight in all; 0.5 is half way (as Mahajan et al. 2018
    sample).
    """
    raw = [count**-power if count else 1.0 for count in counts]
    total = sum(count * value for count, value in zip(counts, raw, strict=True))
    scale = sum(counts) / total if total else 1.0
    return [value * scale if count else 1.0 for count, value in zip(counts, raw, strict=True)]


def box_loss_sum(
    deltas: Tensor,
    anchors: Tensor,
    gt_boxes: Tensor,
    selected: Tensor,
    *,
    weights: Sequence[float],
    loss: str,
    smooth_l1_beta: float,
) -> Tensor:
    """Sum of the box losses of the `selected` (…,) rows; deltas, anchors, gt_boxes are (…, 4).

    l1 and smooth_l1 (Girshick 2015, 2.3) compare deltas; giou (Rezatofighi et al. 2019) compares
    decoded boxes. Rows that are not selected may hold anything finite.
    """
    # Rows that do not count get a unit box: where() still differentiates the side that it drops,
    # and 0 · inf would be NaN.
    unit = torch.zeros_like(anchors)
    unit[..., 2:] = 1
    anchors = torch.where(selected[..., None], anchors, unit)
    gt_boxes = torch.where(selected[..., None], gt_boxes, unit)
    deltas = full_precision(deltas)
    if loss == "giou":
        loss_per_row = giou_loss(decode_boxes(deltas, anchors, weights), gt_boxes.to(deltas.dtype))
    else:
        targets = encode_boxes(gt_boxes, anchors, weights).to(deltas.dtype)
        if loss == "l1":
            loss_per_row = F.l1_loss(deltas, targets, reduction="none").sum(dim=-1)
        else:
            elements = F.smooth_l1_loss(deltas, targets, reduction="none", beta=smooth_l1_beta)
            loss_per_row = elements.sum(dim=-1)
    return torch.where(selected, loss_per_row, loss_per_row.new_zeros(())).sum()


@dataclass(frozen=True, kw_only=True)
class ClassificationLoss:
    """Named losses, weighted already: their sum is what is minimised."""

    name: str
    """cross_entropy, or bce: a binary cross-entropy a class (Wightman et al. 2021, 3.1), with the
    mean over classes as in timm, whose learning rates it is meant for."""
    label_smoothing: float
    """Share ε of the target that goes to all classes alike (Szegedy et al. 2016, 7)."""
    bce_target_thresh: float | None
    """bce: targets above it are 1 and others 0, before the smoothing: every class that takes part
    in a mix counts as present, to 1 − ε (Wightman et al. 2021, 3.1). timm smooths first, which the
    threshold then undoes."""
    aux_weight: float
    """Weight of each auxiliary head's loss (Szegedy et al. 2015, 5)."""
    teacher_weight: float
    """Share of the teacher's loss beside that of the classes, where there is a teacher."""
    teacher_temperature: float
    """Softmax temperature T of both in the teacher's loss, which is multiplied by T² (Hinton et al.
    2015, 2)."""

    def __call__(
        self, outputs: Sequence[Tensor], targets: Tensor, teacher: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Scalars loss_cls and, where there are such, loss_aux and loss_teacher.

        `outputs` are logits (B, K), those of the head and then of auxiliary heads. `targets` are
        labels (B,) int64, or the rows (B, K) of `mix_batch`, not yet smoothed; a label of −1 and
        a row of zeros do not count. `teacher` are a teacher's logits (B, K). Means are over the
        images that count, of all processes; without any they are 0.
        """
        valid = targets >= 0 if targets.ndim == 1 else targets.sum(dim=1) > 0
        logits = [full_precision(x) for x in outputs]
        share = 0.0 if teacher is None else self.teacher_weight
        named = {"loss_cls": self._each(logits[0], targets) * (1.0 - share)}
        if len(logits) > 1:
            each = torch.stack([self._each(x, targets) for x in logits[1:]])
            named["loss_aux"] = each.sum(dim=0) * self.aux_weight
        if teacher is not None:
            named["loss_teacher"] = self._teacher_each(logits[0], teacher) * share
        each = torch.stack(list(named.values()))  # (losses, B)
        totals = torch.where(valid, each, 0.0).sum(dim=1)
        # All at once: one exchange between processes.
        means = mean_over_processes(totals, valid.sum())
        return dict(zip(named, means.unbind(), strict=True))

    def _each(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss (B,) of each image; rows that do not count hold anything finite."""
        if self.name == "bce":
            if targets.ndim == 1:
                targets = soft_targets(targets, logits.shape[1])
            rows = targets.to(logits.dtype)
            if self.bce_target_thresh is not None:
                rows = (rows > self.bce_target_thresh).to(logits.dtype)
            rows = self._smooth(rows)
            return F.binary_cross_entropy_with_logits(logits, rows, reduction="none").mean(dim=1)
        assert self.name == "cross_entropy", self.name
        if targets.ndim == 1:
            return F.cross_entropy(
                logits,
                targets.clamp(min=0),
                reduction="none",
                label_smoothing=self.label_smoothing,
            )
        rows = self._smooth(targets.to(logits.dtype))
        return -(rows * F.log_softmax(logits, dim=1)).sum(dim=1)

    def _smooth(self, rows: Tensor) -> Tensor:
        if not self.label_smoothing:
            return rows
        return rows * (1.0 - self.label_smoothing) + self.label_smoothing / rows.shape[1]

    def _teacher_each(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """KL divergence (B,) of the softened outputs from the teacher's, times T²."""
        t = self.teacher_temperature
        wanted = F.log_softmax(teacher.detach().to(logits.dtype) / t, dim=1)
        student = F.log_softmax(logits / t, dim=1)
        divergence = F.kl_div(student, wanted, reduction="none", log_target=True)
        return divergence.sum(dim=1) * t**2
