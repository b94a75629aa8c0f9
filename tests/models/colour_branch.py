"""An attribute per object: its colour, learned from `Target.extra["colour"]` (G,) int64."""

import torch
import torch.nn.functional as F
from torch import nn

from resdet.models.branches import BRANCHES
from resdet.models.losses import full_precision, mean_over_processes


class Colour(nn.Module):
    def __init__(self, in_channels, num_classes, *, num_colours, pool_size=7):
        super().__init__()
        self.pool_size = pool_size
        self.score = nn.Linear(in_channels, num_colours)

    def forward(self, pooled):
        """(R, C, S, S) → logits (R, num_colours)."""
        return full_precision(self.score(pooled.mean((2, 3))))

    def losses(self, features, samples, targets):
        logits = self(samples.pool(features, self.pool_size))
        colours = samples.of_objects(targets.extra["colour"])
        losses = F.cross_entropy(logits, colours, reduction="none")
        total = torch.where(samples.valid, losses, 0).sum()
        return {"loss_colour": mean_over_processes(total, samples.valid.sum())}

    def detect(self, features, detections):
        pooled = features.pool(detections.boxes, detections.images, self.pool_size)
        return {"colour": self(pooled).argmax(dim=1)}


BRANCHES["colour"] = Colour
