"""Heads on a backbone's feature maps."""

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F


class Head(Protocol):
    """What a classifier needs of its head; a backbone may make its own, a module of this kind, by
    `make_head(num_classes, dropout)`."""

    def __call__(self, features: dict[str, Tensor]) -> Tensor:
        """The backbone's feature maps → logits (B, K)."""
        ...

    def dense(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, K, h, w) of the head slid over the map as a convolution; a map no larger than
        in training gives one position (Sermanet et al. 2014)."""
        ...


class PoolHead(nn.Module):
    """Global average pooling, dropout, one linear layer (He et al. 2016, table 1)."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        feature: str = "c5",
        window: int = 7,
        dropout: float = 0.0,
    ) -> None:
        """`window` is the side of the map in training, which `dense` slides over larger maps."""
        super().__init__()
        self.feature = feature
        self.window = window
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, K)."""
        return self.fc(self.dropout(features[self.feature].mean((2, 3))))

    def dense(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, K, h, w) per window of the map."""
        x = features[self.feature]
        side = (min(self.window, x.shape[2]), min(self.window, x.shape[3]))
        pooled = F.avg_pool2d(x, side, stride=1)
        return F.conv2d(pooled, self.fc.weight[:, :, None, None], self.fc.bias)
