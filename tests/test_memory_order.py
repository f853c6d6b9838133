"""Optimizer steps of channels_last weights, against steps of contiguous ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.training.memory_order import memory_order
from retinanet_fast.engine.training.optimizer import apply, make_optimizer

CPU = torch.device("cpu")


def network() -> nn.Module:
    """Weights of 3x3 and of 1x1 convolutions, which are in both formats at once, and vectors."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3))


def backward(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    model(torch.randn(2, 3, 9, 9, generator=generator)).square().sum().backward()


def stepped(
    optimizer: str, channels_last: bool, steps: int = 3
) -> tuple[list[Tensor], torch.optim.Optimizer]:
    model = network()
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    made = make_optimizer(Recipe(optimizer=optimizer, lr=0.1, weight_decay=0.01), model, CPU)
    weights = list(model.parameters())
    # The same gradients for both formats, so that only the step's own arithmetic is compared.
    backward(model)
    for weight in weights:
        assert weight.grad is not None
        drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
        weight.grad.copy_(drawn)
    for _ in range(steps):
        apply(made, weights, 0.0, torch.zeros(()))
    return weights, made


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_steps_are_those_of_contiguous_weights(optimizer: str) -> None:
    expected, _ = stepped(optimizer, channels_last=False)
    found, made = stepped(optimizer, channels_last=True)
    assert any(not weight.is_contiguous() for weight in found)
    for weight, other in zip(found, expected, strict=True):
        # Vector registers hold other elements: a fused multiply-add, or none, at the end of a row.
        torch.testing.assert_close(weight, other, rtol=1e-6, atol=1e-7)
        for moment in made.state[weight].values():
            assert moment.dim() == 0 or moment.stride() == weight.stride()


def test_within_the_block_all_is_contiguous_and_after_it_as_before() -> None:
    weights, made = stepped("adamw", channels_last=True)
    before = [(weight.stride(), weight.data_ptr(), weight.grad) for weight in weights]
    with memory_order(made):
        for weight in weights:
            assert weight.grad is not None
            assert all(t.is_contiguous() for t in (weight, weight.grad, *made.state[weight].values()))
    after = [(weight.stride(), weight.data_ptr(), weight.grad) for weight in weights]
    assert all(old[:2] == new[:2] and old[2] is new[2] for old, new in zip(before, after, strict=True))


def test_a_gradient_of_other_strides_is_not_mixed_up() -> None:
    """torch's fused step alone would take its elements in the order of their memory."""
    found, made = stepped("sgd", channels_last=True)
    other, others = stepped("sgd", channels_last=True)
    for weight in other:
        assert weight.grad is not None
        weight.grad = weight.grad.contiguous()
    apply(made, found, 0.0, torch.zeros(()))
    apply(others, other, 0.0, torch.zeros(()))
    for weight, same in zip(found, other, strict=True):
        assert torch.equal(weight, same)


def test_a_moment_of_other_strides_is_an_error() -> None:
    weights, made = stepped("sgd", channels_last=True)
    first = weights[0]
    made.state[first]["momentum_buffer"] = made.state[first]["momentum_buffer"].contiguous()
    before = first.clone()
    with pytest.raises(RuntimeError, match="momentum_buffer: expected the strides of its weight"):
        apply(made, weights, 0.0, torch.zeros(()))
    assert torch.equal(first, before)
    assert first.stride() == before.stride()
