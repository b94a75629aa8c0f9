"""LAMB (You et al. 2020, algorithm 2), with the details that timm's recipes were tuned with."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Lamb(torch.optim.Optimizer):
    """Adam's step, scaled for each tensor to the norm of its weights.

    As in timm and NVIDIA's version of it: the gradient of all parameters together is first scaled
    down to `max_grad_norm`; weight decay is added to Adam's direction before the norms are taken;
    a parameter without weight decay (norms and biases) takes Adam's plain step.

    The state is plain: two tensors per parameter and a step count per group.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float],
        weight_decay: float = 0.0,
        eps: float = 1e-6,
        max_grad_norm: float | None = 1.0,
    ) -> None:
        """`max_grad_norm` None takes gradients as they are; groups may have their own
        `weight_decay`."""
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        super().__init__(params, defaults)
        self.max_grad_norm = max_grad_norm

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update from the gradients, which it scales in place; never waits for the device."""
        self._scale_gradients()
        for group in self.param_groups:
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if params:
                group["step"] += 1
                self._update(params, group)

    def _scale_gradients(self) -> None:
        if self.max_grad_norm is None:
            return
        params = [p for group in self.param_groups for p in group["params"]]
        grads = [p.grad for p in params if p.grad is not None]
        if not grads:
            return
        norm = torch.stack(torch._foreach_norm(grads)).norm()
        torch._foreach_div_(grads, (norm / self.max_grad_norm).clamp(min=1.0))

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
        means = [self.state[p]["exp_avg"] for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)
        # Both averages start at 0, which is divided out.
        scale1 = 1 - beta1 ** group["step"]
        scale2 = 1 - beta2 ** group["step"]
        bottom = torch._foreach_sqrt(squares)
        torch._foreach_div_(bottom, scale2**0.5)
        torch._foreach_add_(bottom, group["eps"])
        update = torch._foreach_div(means, bottom)
        torch._foreach_div_(update, scale1)
        if group["weight_decay"]:
            torch._foreach_add_(update, params, alpha=group["weight_decay"])
            weights = torch.stack(torch._foreach_norm(params))
            directions = torch.stack(torch._foreach_norm(update))
            usable = (weights > 0) & (directions > 0)
            ratio = torch.where(usable, weights / directions, 1.0)
            torch._foreach_mul_(update, ratio.unbind())
        torch._foreach_add_(params, update, alpha=-group["lr"])
