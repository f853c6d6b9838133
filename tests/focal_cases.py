"""Logits and targets for the tests of `sigmoid_focal_loss`."""

import torch
from cases import generator
from torch import Tensor

GAMMAS = [0.0, 0.5, 1.0, 2.0, 3.0]
REDUCTIONS = ["none", "mean", "sum"]


def logits(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=generator(seed), dtype=torch.float64) * 3 - 1
    return x.to(device=device, dtype=dtype)


def labels(*shape: int, classes: int, device: str = "cpu", seed: int = 1) -> Tensor:
    return torch.randint(-2, classes, shape, generator=generator(seed)).to(device)


def soft_targets(
    *shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 2
) -> Tensor:
    t = torch.rand(*shape, generator=generator(seed), dtype=torch.float64)
    # A third of them hard, as one-hot targets are.
    t = torch.where(t < 1 / 6, 0.0, torch.where(t > 5 / 6, 1.0, t))
    return t.to(device=device, dtype=dtype)


def targets_for(x: Tensor, kind: str) -> Tensor:
    if kind == "labels":
        return labels(*x.shape[:-1], classes=x.shape[-1], device=str(x.device))
    return soft_targets(*x.shape, dtype=x.dtype, device=str(x.device))


def loss_and_grads(op, x: Tensor, targets: Tensor, *args: object, upstream: float = 1.0) -> list[Tensor]:
    x = x.detach().requires_grad_()
    leaves = [x]
    if targets.is_floating_point():
        targets = targets.detach().requires_grad_()
        leaves.append(targets)
    loss = op(x, targets, *args)
    return [loss.detach(), *torch.autograd.grad(loss, leaves, torch.full_like(loss, upstream))]
