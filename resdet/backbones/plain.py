"""Plain networks: a ResNet's layers without its shortcuts (He et al. 2016, 3.3 and figure 3).

Plain-18 and plain-34 have as many parameters as ResNets with shortcuts of option A; plain-50, a
stack of bottleneck layers, is not in the paper.
"""

from __future__ import annotations

from resdet.backbones import register_variant
from resdet.backbones.resnet import DEPTHS, BasicBlock, Bottleneck, ResNet

_NO_BRANCHES = {"shortcut": None, "stochastic_depth": 0.0, "zero_gamma": False}
_BASIC = {**_NO_BRANCHES, "block": BasicBlock, "stride_in_1x1": False}

register_variant("plain18", ResNet, {**_BASIC, "depths": DEPTHS["18"]})
register_variant("plain34", ResNet, {**_BASIC, "depths": DEPTHS["34"]})
register_variant("plain50", ResNet, {**_NO_BRANCHES, "block": Bottleneck, "depths": DEPTHS["50"]})
