"""The checks that matching, loss and detection share, by the dispatcher, where no Python stands before them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from retinanet_fast.structures import AnchorGrid

LOGITS = [torch.zeros(1, 6, 2, 3)]  # two anchors per cell, three classes
DELTAS = [torch.zeros(1, 8, 2, 3)]
BASE_ANCHORS = torch.tensor([[[-4.0, -4.0, 4.0, 4.0], [-8.0, -4.0, 8.0, 4.0]]])
BOXES, LABELS = [torch.tensor([[0.0, 0.0, 8.0, 8.0]])], [torch.tensor([1])]
WEIGHTS = [1.0] * 4

Grid = tuple[Tensor, list[int], list[int]]


def match_anchors(grid: Grid) -> None:
    torch.ops.retinanet_fast.match_anchors(*grid, BOXES, None, 0.5, 0.4, True, True)


def retinanet_loss(grid: Grid) -> None:
    options = 0.25, 2.0, "l1", 0.1, WEIGHTS, 0.5, 0.4, True, True
    torch.ops.retinanet_fast.retinanet_loss(LOGITS, DELTAS, *grid, BOXES, LABELS, None, *options)


def retinanet_detect(grid: Grid) -> None:
    options = 0.05, None, 100, 0.5, 10, WEIGHTS, "", 0.5
    torch.ops.retinanet_fast.retinanet_detect(LOGITS, DELTAS, *grid, torch.tensor([[16, 24]]), *options)


OPS = [match_anchors, retinanet_loss, retinanet_detect]


@pytest.mark.parametrize("op", OPS)
def test_a_right_grid_passes(op: Callable[[Grid], None]) -> None:
    op((BASE_ANCHORS, [8, 8], [2, 3]))


@pytest.mark.parametrize(
    ("strides", "grid_sizes", "message"),
    [
        ([0, 8], [2, 3], r"strides in \[1, 16777216\], got 0 at level 0"),
        ([8, -8], [2, 3], "got -8 at level 0"),
        (
            [2**31 + 8, 8],
            [2, 3],
            "got 2147483656 at level 0",
        ),  # as a 32-bit number it would be a negative one
        ([2**32 + 8, 8], [2, 3], "got 4294967304 at level 0"),  # and this one 8
        ([8, 8], [-2, 3], r"grid_sizes in \[0, 16777216\], got -2 at level 0"),
        ([8, 8], [2**32 + 2, 3], "got 4294967298 at level 0"),
        ([8], [2, 3], "a stride and a grid size for each of its 1 levels"),
        ([], [], "a stride and a grid size for each of its 1 levels"),
    ],
)
@pytest.mark.parametrize("op", OPS)
def test_a_grid_that_no_grid_is(
    op: Callable[[Grid], None], strides: list[int], grid_sizes: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"{op.__name__}: expected .*AnchorGrid.*{message}"):
        op((BASE_ANCHORS, strides, grid_sizes))


@pytest.mark.parametrize("op", OPS)
def test_a_grid_of_too_many_levels(op: Callable[[Grid], None]) -> None:
    with pytest.raises(ValueError, match=f"{op.__name__}: expected an AnchorGrid of at most 8 levels, got 9"):
        op((BASE_ANCHORS.expand(9, -1, -1), [8, 8] * 9, [2, 3] * 9))


@pytest.mark.parametrize("op", OPS)
def test_boxes_with_a_grid_of_their_own(op: Callable[[Grid], None]) -> None:
    boxes = AnchorGrid(BASE_ANCHORS, ((8, 8),), ((2, 3),)).boxes()
    op((boxes, [], []))
    with pytest.raises(ValueError, match=r"expected no strides and grid sizes beside anchors \[A, 4\]"):
        op((boxes, [8, 8], [2, 3]))


@pytest.mark.parametrize("op", OPS)
def test_integer_anchors(op: Callable[[Grid], None]) -> None:
    with pytest.raises(TypeError, match=f"{op.__name__}: expected anchors of float64"):
        op((BASE_ANCHORS.long(), [8, 8], [2, 3]))


@pytest.mark.parametrize("op", [retinanet_loss, retinanet_detect])
def test_a_grid_of_another_head(op: Callable[[Grid], None]) -> None:
    with pytest.raises(ValueError, match=r"2 x 3 cells at level 0, got 1 levels with 2 and 3 x 2"):
        op((BASE_ANCHORS, [8, 8], [3, 2]))
    with pytest.raises(ValueError, match=r"with 2 anchors per cell .*, got 1 levels with 1"):
        op((BASE_ANCHORS[:, :1], [8, 8], [2, 3]))
