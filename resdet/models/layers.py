"""Convolutions and fully connected layers with their initialisation, shared by neck and heads."""

from torch import nn

from resdet.backbones.norm import make_norm


def conv_norm_relu(c_in: int, c_out: int, norm: str, *, relu: bool = True) -> nn.Sequential:
    """3×3 convolution (a bias only without norm), norm, ReLU; He normal, fan-out."""
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=norm == "none")
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    layers: list[nn.Module] = [conv]
    if norm != "none":
        layers.append(make_norm(norm, c_out))
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def conv_stack(c_in: int, width: int, count: int, norm: str) -> tuple[nn.Sequential, int]:
    """`count` such convolutions of `width` channels, and the channels that come out."""
    convs = [conv_norm_relu(width if i else c_in, width, norm) for i in range(count)]
    return nn.Sequential(*convs), width if count else c_in


def xavier_uniform(layer: nn.Conv2d | nn.Linear) -> None:
    """Uniform in ±sqrt(3 / fan-in), bias 0 (Caffe2's XavierFill, which Detectron's numbers use)."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def normal_init(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Normal weights of deviation `std`, bias 0."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
