"""The fused step with clipping and the device's own decision, against torch's clip_grad_norm_ and unfused step."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.training.optimizer import (
    apply,
    make_optimizer,
    restore_optimizer,
    set_learning_rate,
)

CPU = torch.device("cpu")
GOOD, BAD = torch.tensor(False), torch.tensor(True)
both = pytest.mark.parametrize("name", ["sgd", "adamw"])
formats = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)


def recipe_of(name: str) -> Recipe:
    return Recipe(optimizer=name, lr=0.05, momentum=0.9, weight_decay=0.01)


def network(memory_format: torch.memory_format = torch.contiguous_format) -> nn.Sequential:
    """Weights whose layouts differ: 3x3 and 1x1 convolutions, a norm, one channel."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 5, 1), nn.Conv2d(5, 1, 3))
    return layers.to(memory_format=memory_format)  # type: ignore[call-overload]


def backward(model: nn.Module, step: int, factor: float = 1.0) -> None:
    model.zero_grad(set_to_none=True)
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(step))
    (model(images).square().mean() * factor).backward()


def plain_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    options = {"lr": 0.05, "weight_decay": 0.01, "fused": False, "foreach": False}
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=0.9, **options)  # type: ignore[arg-type]
    return torch.optim.AdamW(model.parameters(), **options)  # type: ignore[arg-type]


def kept(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Copies of all that a step changes."""
    state = [state[key] for state in optimizer.state.values() for key in sorted(state)]
    return [tensor.detach().clone() for tensor in [*model.parameters(), *state]]


@both
@formats
@pytest.mark.parametrize("clip_norm", [0.0, 0.1, 1e6], ids=["no clipping", "clipped", "above the norm"])
def test_it_is_clipping_and_a_step(name: str, memory_format: torch.memory_format, clip_norm: float) -> None:
    model, other = network(memory_format), network(memory_format)
    optimizer, plain = make_optimizer(recipe_of(name), model, CPU), plain_optimizer(name, other)
    for step in range(4):
        backward(model, step)
        backward(other, step)
        norm = apply(optimizer, model.parameters(), clip_norm, GOOD)
        expected = nn.utils.clip_grad_norm_(other.parameters(), clip_norm or float("inf"))
        assert clip_norm != 0.1 or expected > 0.1  # it does clip
        plain.step()
        # The same sums in another order, and a quotient in the place of a product.
        torch.testing.assert_close(norm, expected, rtol=1e-5, atol=0)
        for weight, right in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(weight, right, rtol=1e-5, atol=1e-6)


@both
@pytest.mark.parametrize("why", ["flag", "gradient"])
@pytest.mark.parametrize("when", [0, 2], ids=["the first step", "a later step"])
def test_a_bad_step_changes_nothing(name: str, why: str, when: int) -> None:
    """Nor does it leave a trace: what follows is what would have followed without it."""
    model, other = network(), network()
    optimizer, undisturbed = (make_optimizer(recipe_of(name), each, CPU) for each in (model, other))
    for step in range(4):
        if step == when:
            backward(model, 100)
            if why == "gradient":
                next(model.parameters()).grad[0, 0, 0, 0] = torch.inf  # type: ignore[index]
            before = kept(model, optimizer)
            apply(optimizer, model.parameters(), 1.0, BAD if why == "flag" else GOOD)
            assert all(torch.equal(a, b) for a, b in zip(before, kept(model, optimizer), strict=True))
        for each, its_own in ((model, optimizer), (other, undisturbed)):
            backward(each, step)
            apply(its_own, each.parameters(), 1.0, GOOD)
    assert all(
        torch.equal(a, b) for a, b in zip(kept(model, optimizer), kept(other, undisturbed), strict=True)
    )


@pytest.mark.parametrize("flag", [torch.tensor(3.0), torch.tensor(1)], ids=["float", "int"])
def test_any_number_but_zero_is_bad(flag: Tensor) -> None:
    model = network()
    optimizer = make_optimizer(recipe_of("sgd"), model, CPU)
    backward(model, 0)
    before = kept(model, optimizer)
    apply(optimizer, model.parameters(), 0.0, flag)
    assert all(torch.equal(a, b) for a, b in zip(before, kept(model, optimizer), strict=True))


@both
def test_clipping_and_the_scaler_of_float16_compose(name: str) -> None:
    model, other = network(), network()
    optimizer, plain = make_optimizer(recipe_of(name), model, CPU), plain_optimizer(name, other)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for step in range(4):
        scale = scaler.get_scale()
        backward(model, step, scale)
        backward(other, step)
        norm = apply(optimizer, model.parameters(), 0.1, GOOD, scaler)
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(other.parameters(), 0.1), rtol=1e-5, atol=0)
        plain.step()
        for weight, right in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(weight, right, rtol=1e-5, atol=1e-6)
        assert scaler.get_scale() == scale * (2 if step % 2 else 1)


def test_with_a_scaler_the_flag_leaves_the_step_out_and_halves_the_scale() -> None:
    model = network()
    optimizer = make_optimizer(recipe_of("adamw"), model, CPU)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))
    backward(model, 0, 1024.0)
    before = kept(model, optimizer)
    norm = apply(optimizer, model.parameters(), 1.0, BAD, scaler)
    assert norm.isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, kept(model, optimizer), strict=True))
    assert scaler.get_scale() == 512


@both
def test_a_state_goes_through_a_file_and_into_another_memory_format(name: str, tmp_path: Path) -> None:
    model = network(torch.channels_last)
    optimizer = make_optimizer(recipe_of(name), model, CPU)
    for step in range(2):
        backward(model, step)
        apply(optimizer, model.parameters(), 1.0, GOOD)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    restored = make_optimizer(recipe_of(name).replace(weight_decay=0.5), other, CPU)
    tensors = [tensor for state in restored.state.values() for tensor in state.values()]
    restore_optimizer(restored, torch.load(tmp_path / "state.pt", weights_only=True), tmp_path / "state.pt")
    assert restored.param_groups[0]["weight_decay"] == 0.5
    found = [tensor for state in restored.state.values() for tensor in state.values()]
    assert all(a is b for a, b in zip(tensors, found, strict=True))
    set_learning_rate(restored, 0.05)
    restored.param_groups[0]["weight_decay"] = 0.01
    for each, its_own in ((model, optimizer), (other, restored)):
        backward(each, 2)
        apply(its_own, each.parameters(), 1.0, GOOD)
    for a, b in zip(kept(model, optimizer), kept(other, restored), strict=True):
        # Convolutions of the two formats add in different orders.
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fault", ["absent", "other optimizer", "other model"])
def test_a_state_of_something_else_is_refused(fault: str) -> None:
    model = network()
    state = make_optimizer(recipe_of("adamw"), model, CPU).state_dict()
    other = make_optimizer(recipe_of("sgd" if fault == "other optimizer" else "adamw"), network(), CPU)
    if fault == "absent":
        state = {}
    elif fault == "other model":
        state["state"][0]["exp_avg"] = torch.zeros(4, 3, 3, 3)
    with pytest.raises(InputError, match=r"last\.pt: holds no state of this optimizer to resume from"):
        restore_optimizer(other, state, Path("last.pt"))


@both
def test_the_learning_rate_of_a_step(name: str) -> None:
    model = network()
    optimizer = make_optimizer(recipe_of(name), model, CPU)
    set_learning_rate(optimizer, 0.0)
    backward(model, 0)
    before = [weight.detach().clone() for weight in model.parameters()]
    apply(optimizer, model.parameters(), 0.0, GOOD)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    set_learning_rate(optimizer, 0.1)
    backward(model, 0)
    apply(optimizer, model.parameters(), 0.0, GOOD)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
