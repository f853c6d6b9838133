"""torch.compile of the whole model over changing sizes: how many graphs, and the same results."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from retinanet_fast import ops
from retinanet_fast.models import RetinaNet
from retinanet_fast.nn import AnchorGenerator, DetectionTransform, pad_targets


class Body(nn.Module):
    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=8, padding=1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        level = self.stem(images).relu()
        return [level, self.down(level)]


def tiny(**options: object) -> RetinaNet:
    """Four convolutions and two levels: what is compiled around them is the whole model's."""
    torch.manual_seed(0)
    anchors = AnchorGenerator(((32,), (64,)))
    settings = {"min_size": 64, "max_size": 96, "score_thresh": 0.009, "detections_per_img": 20, **options}
    return RetinaNet(Body(), 4, anchor_generator=anchors, **settings)  # type: ignore[arg-type]


def batches(number: int) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Two images each, of random sizes and 0 to 6 boxes."""
    draw = random.Random(0)
    for _ in range(number):
        images = [torch.rand(3, draw.randint(40, 99), draw.randint(40, 99)) for _ in range(2)]
        targets = []
        for count in (draw.randint(0, 6), draw.randint(0, 6)):
            corner = torch.rand(count, 2) * 20
            boxes = torch.cat((corner, corner + 5 + torch.rand(count, 2) * 15), dim=1)
            targets.append({"boxes": boxes, "labels": torch.randint(1, 4, (count,))})
        yield images, targets


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("outside", [False, True], ids=["sizes inside", "sizes outside"])
def test_training_has_at_most_two_graphs_over_50_sizes(outside: bool) -> None:
    model = tiny()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for images, targets in batches(50):
        sizes = model.transform.batch_sizes(images) if outside else None
        losses = compiled(images, pad_targets(targets, 8), sizes)
        # The same kernels; the decomposed resizing sums four products in another order.
        for key, loss in model(images, targets).items():
            torch.testing.assert_close(losses[key], loss, rtol=1e-4, atol=1e-5)
        sum(losses.values()).backward()
    assert 1 <= counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("outside", [False, True], ids=["sizes inside", "sizes outside"])
def test_evaluation_has_at_most_two_graphs_over_50_sizes(outside: bool) -> None:
    model = tiny().eval()
    compiled = torch.compile(model.detect_batch, fullgraph=True, dynamic=True, backend="eager")
    with torch.no_grad():
        for images, _ in batches(50):
            found = compiled(images, model.transform.batch_sizes(images) if outside else None)
            expected = model.detect_batch(images)
            assert torch.equal(found.counts, expected.counts)
            assert torch.equal(found.boxes, expected.boxes)
    assert 1 <= counters["stats"]["unique_graphs"] <= 2


def test_a_random_min_size_is_drawn_outside() -> None:
    model = tiny(min_size=(64, 72, 80), max_size=200)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    seen = set()
    for images, targets in batches(10):
        sizes = model.transform.batch_sizes(images)
        seen.update(min(size) for size in sizes.resized)
        losses = compiled(images, pad_targets(targets, 8), sizes)
        for key, loss in model(images, targets, sizes).items():
            torch.testing.assert_close(losses[key], loss, rtol=1e-5, atol=1e-6)
    assert seen >= {64, 72, 80}  # and one pixel less, where the scaled side is rounded down
    assert counters["stats"]["unique_graphs"] <= 2
    with pytest.raises(Exception, match="draw outside"):
        compiled(images, pad_targets(targets, 8))


def test_the_whole_model_compiles_with_a_graph_break_too() -> None:
    """Where it may break, the draw and the lists of detections need nothing from the caller."""
    model = tiny(min_size=(64, 72, 80), max_size=200)
    compiled = torch.compile(model, backend="eager")
    images, targets = next(batches(1))
    assert compiled(images, targets).keys() == {"classification", "bbox_regression"}
    model.eval()
    for found, expected in zip(compiled(images), model(images), strict=True):
        assert torch.equal(found["boxes"], expected["boxes"])


# Heights and widths of photographs, landscape and portrait, square and panoramic.
PHOTOGRAPHS = [(480, 640), (427, 640), (640, 480), (640, 427), (640, 640), (375, 500), (333, 500), (640, 200)]


def test_a_coarse_multiple_leaves_few_padded_sizes() -> None:
    """Training under Inductor has one graph per padded size, so this is its number of graphs."""
    draw = random.Random(0)
    transform = DetectionTransform(800, 1333, [0.0] * 3, [1.0] * 3, size_divisible=448)
    fine = DetectionTransform(800, 1333, [0.0] * 3, [1.0] * 3)
    padded: dict[DetectionTransform, set[tuple[int, int]]] = {transform: set(), fine: set()}
    for _ in range(1000):
        picks = [draw.choice(PHOTOGRAPHS) for _ in range(2)]
        images = [torch.empty(3, h + draw.randint(-40, 0), w, device="meta") for h, w in picks]
        for each, sizes in padded.items():
            sizes.add(each.batch_sizes(images).padded)
    assert len(padded[transform]) <= 8
    assert len(padded[fine]) > 8


def test_the_network_alone_has_a_graph_per_padded_size() -> None:
    model, plain = tiny(size_divisible=64), tiny(size_divisible=64)
    model.network = torch.compile(model.network, dynamic=False, backend="aot_eager")  # type: ignore[method-assign]
    padded = set()
    for images, targets in batches(12):
        padded.add(model.transform.batch_sizes(images).padded)
        for key, loss in model(images, targets).items():
            torch.testing.assert_close(loss, plain(images, targets)[key], rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == len(padded) > 1


class WeightedLoss(nn.Module):
    """A loss of one's own, as a researcher would write it around the op: with a weight that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, *levels: Any, **options: Any) -> dict[str, Tensor]:
        losses = ops.retinanet_loss(*levels, **options)
        return {**losses, "weighted": self.weight * losses["bbox_regression"]}


def test_a_model_with_a_loss_of_ones_own_compiles() -> None:
    model = tiny(loss_function=WeightedLoss())
    assert "loss_function.weight" in model.state_dict()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    images, targets = next(batches(1))
    losses = compiled(images, pad_targets(targets, 8))
    assert losses.keys() == {"classification", "bbox_regression", "weighted"}
    for key, loss in model(images, targets).items():
        torch.testing.assert_close(losses[key], loss, rtol=1e-4, atol=1e-5)  # as above
    losses["weighted"].backward()
    assert model.loss_function.weight.grad == losses["bbox_regression"]


@pytest.mark.slow
def test_inductor_gives_the_eager_results() -> None:
    """Compiles C++ for a minute or two."""
    model = tiny()
    images, targets = next(batches(1))
    padded, sizes = pad_targets(targets, 8), model.transform.batch_sizes(images)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    expected = model(images, targets)
    found = compiled(images, padded, sizes)
    weights = list(model.parameters())
    gradients = torch.autograd.grad(sum(found.values()), weights)
    for key, loss in expected.items():
        torch.testing.assert_close(found[key], loss, rtol=1e-4, atol=1e-5)
    for actual, gradient in zip(gradients, torch.autograd.grad(sum(expected.values()), weights), strict=True):
        torch.testing.assert_close(actual, gradient, rtol=1e-3, atol=1e-5)
