"""recipe.compile: the network of the step compiled once per shape, up to a bound that is told of."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from tiny_run import tiny_model
from torch import nn
from torch._dynamo.utils import counters

from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.training import compiled
from retinanet_fast.engine.training.compiled import compile_network
from retinanet_fast.models import RetinaNet
from retinanet_fast.nn import pad_targets


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def losses_of(model: RetinaNet, width: int) -> list[torch.Tensor]:
    """Of one image, and the gradients."""
    image = torch.rand(3, 64, width, generator=torch.Generator().manual_seed(width))
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 50.0]]), "labels": torch.tensor([1])}
    torch.manual_seed(0)  # of the dropout
    losses = model([image], pad_targets([target], 4))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return [*losses.values(), *torch.autograd.grad(sum(losses.values()), weights)]  # type: ignore[arg-type]


def pair(backend: str) -> tuple[RetinaNet, RetinaNet, list[str]]:
    """The same model twice, the first compiled, and what was said. Without dropout, which Inductor draws otherwise."""
    said: list[str] = []
    model = tiny_model(norm="group")
    model.transform.min_size, model.transform.max_size = (64,), 10_000
    plain = copy.deepcopy(model)
    compile_network(model, said.append, backend)
    return model, plain, said


def test_there_is_a_graph_per_shape_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled.MAX_GRAPHS == 8  # more than torch.compile's own limit would be none
    monkeypatch.setattr(compiled, "MAX_GRAPHS", 3)
    model, plain, said = pair("aot_eager")
    for width in (64, 96, 64, 128, 160, 192, 96):
        for found, expected in zip(losses_of(model, width), losses_of(plain, width), strict=True):
            # The same operators, whose sums AOTAutograd may group otherwise.
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 3
    # Of the two shapes beyond the bound the first alone is told of.
    assert said == [
        "compile: graph 1 of at most 3, for batches [1, 3, 64, 64]",
        "compile: graph 2 of at most 3, for batches [1, 3, 64, 96]",
        "compile: graph 3 of at most 3, for batches [1, 3, 64, 128]",
        "compile: all 3 graphs are made; batches [1, 3, 64, 160], and of every other new shape, run uncompiled; "
        "a larger size_divisible, such as 448, makes fewer shapes",
    ]


def test_evaluation_compiles_nothing() -> None:
    model, plain, said = pair("aot_eager")
    for each in (model, plain):
        each.eval()
    image = torch.rand(3, 64, 64)
    with torch.no_grad():
        found, expected = model.detect_batch([image]), plain.detect_batch([image])
    assert torch.equal(found.scores, expected.scores)
    assert said == []


def test_the_weights_keep_their_names() -> None:
    model, plain, _ = pair("aot_eager")
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_a_model_without_a_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"compile: expected a model with a method network, .*, got Linear"):
        compile_network(nn.Linear(2, 2), print)


@pytest.mark.slow
def test_inductor_gives_the_eager_steps() -> None:
    """Compiles C++ for a minute."""
    model, plain, said = pair("inductor")
    for found, expected in zip(losses_of(model, 96), losses_of(plain, 96), strict=True):
        # Inductor fuses, and so adds in other orders.
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert len(said) == 1
