"""Head outputs for the tests of `retinanet_detect`."""

from collections.abc import Sequence

import torch
from cases import generator
from torch import Tensor

from retinanet_fast.structures import AnchorGrid, Detections

Head = tuple[list[Tensor], list[Tensor], AnchorGrid]


def anchor_grid(sizes: Sequence[tuple[int, int]], shapes: int, device: str = "cpu") -> AnchorGrid:
    sides = 8.0 * (1 + torch.arange(len(sizes))[:, None] + torch.arange(shapes) * 0.5)
    base = torch.stack([-sides, -sides / 2, sides, sides / 2], dim=-1).round()
    strides = tuple((8 << level, 6 << level) for level in range(len(sizes)))
    return AnchorGrid(base.to(device), strides, tuple(sizes))


def random_head(
    sizes: Sequence[tuple[int, int]] = ((7, 9), (4, 5), (1, 2)),
    *,
    batch: int = 2,
    shapes: int = 3,
    classes: int = 5,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    step: float | None = None,
) -> Head:
    """The outputs of a head; with `step` all values are multiples of it, so that many are equal."""
    rng = generator(seed)

    def outputs(channels: int, mean: float, spread: float) -> list[Tensor]:
        values = [torch.randn(batch, channels, *size, generator=rng) * spread + mean for size in sizes]
        if step is not None:
            values = [(value / step).round() * step for value in values]
        if dtype == torch.float64 and step is None:
            values = [value.double() * (1 + 1e-9) for value in values]  # not float32 numbers
        return [value.to(device, dtype) for value in values]

    logits = outputs(shapes * classes, -2.0, 1.5)
    return logits, outputs(shapes * 4, 0.0, 0.5), anchor_grid(sizes, shapes, device)


def assert_same(actual: Detections, expected: Detections) -> None:
    """To the bit: both round the same float64 results once, and compare the same float32 values from there on."""
    assert torch.equal(actual.counts, expected.counts)
    assert torch.equal(actual.labels, expected.labels)
    assert torch.equal(actual.scores, expected.scores)
    torch.testing.assert_close(actual.boxes, expected.boxes, rtol=0, atol=0, equal_nan=True)
