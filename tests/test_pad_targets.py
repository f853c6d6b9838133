"""Padded targets in the model: the same losses as lists, and bad ones are named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from retinanet_fast import models
from retinanet_fast.nn import pad_targets


def targets(*counts: int) -> list[dict[str, Tensor]]:
    torch.manual_seed(0)
    corners = [torch.rand(count, 2) * 30 for count in counts]
    boxes = [torch.cat((corner, corner + 8 + 20 * torch.rand_like(corner)), dim=1) for corner in corners]
    return [{"boxes": b, "labels": torch.randint(1, 4, (len(b),))} for b in boxes]


@pytest.mark.parametrize(("multiple", "rows"), [(1, 3), (2, 4), (64, 64)])
def test_shapes_and_padding(multiple: int, rows: int) -> None:
    lists = targets(3, 0, 1)
    padded = pad_targets(lists, multiple)
    assert padded["boxes"].shape == (3, rows, 4)
    assert padded["labels"].shape == (3, rows)
    assert padded["counts"].tolist() == [3, 0, 1]
    for image, target in enumerate(lists):
        count = len(target["boxes"])
        assert torch.equal(padded["boxes"][image, :count], target["boxes"])
        assert torch.equal(padded["labels"][image, :count], target["labels"])
        assert padded["boxes"][image, count:].count_nonzero() == 0


def test_no_boxes_at_all_and_bad_arguments() -> None:
    assert pad_targets(targets(0, 0))["boxes"].shape == (2, 1, 4)
    with pytest.raises(ValueError, match="at least one target and multiple >= 1, got 0 and 1"):
        pad_targets([])


@pytest.mark.parametrize("counts", [(2, 0), (0, 0), (1, 3)], ids=str)
def test_the_losses_of_lists(counts: tuple[int, int]) -> None:
    """The boxes are scaled alike, so that the same kernel gives the same bits."""
    model = models.retinanet_resnet18_fpn(num_classes=4, min_size=64, max_size=96)
    images = [torch.rand(3, 60, 80), torch.rand(3, 64, 70)]
    expected = model(images, targets(*counts))
    padded = pad_targets(targets(*counts), 4)
    for key, loss in model(images, padded).items():
        assert torch.equal(loss, expected[key])


def test_without_counts_all_rows_are_boxes() -> None:
    model = models.retinanet_resnet18_fpn(num_classes=4, min_size=64, max_size=96)
    images = torch.rand(2, 3, 60, 80)
    padded = pad_targets(targets(2, 2))
    expected = model(images, padded)
    del padded["counts"]
    for key, loss in model(images, padded).items():
        assert torch.equal(loss, expected[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.zeros(3, 2, 4)}, r"expected padded boxes \[2, G, 4\], got \[3, 2, 4\]"),
        ({"labels": torch.zeros(2, 5)}, r"expected padded labels \[2, 3\], got \[2, 5\]"),
        ({"counts": torch.zeros(1)}, r"expected counts \[2\], got \[1\]"),
    ],
)
def test_bad_shapes_are_named(change: dict[str, Tensor], message: str) -> None:
    model = models.retinanet_resnet18_fpn(num_classes=4, min_size=64, max_size=96)
    with pytest.raises(ValueError, match=message):
        model(torch.rand(2, 3, 60, 80), {**pad_targets(targets(3, 1)), **change})
