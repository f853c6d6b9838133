"""The values of `retinanet_loss` and its gradients, in every layout, dtype and shape."""

import math
from collections.abc import Callable

import pytest
import torch
from cases import DEVICES, DTYPES, make_grid, random_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import Head, boxes_of, channels_last, mixed
from torch import Tensor

from retinanet_fast import ops


def slice_of_channels(level: int, x: Tensor) -> Tensor:
    """Every level as a slice of a wider head output, of alternating layouts."""
    wide = x.new_full((x.shape[0], x.shape[1] + 5, *x.shape[2:]), math.nan)
    wide = wide if level % 2 else channels_last(level, wide)
    wide[:, 2:-3] = x
    return wide[:, 2:-3].detach()


def slice_of_cells(level: int, x: Tensor) -> Tensor:
    wide = x.new_full((*x.shape[:2], x.shape[2] + 1, x.shape[3] + 3), math.nan)
    wide = wide if level % 2 else channels_last(level, wide)
    wide[..., 1:, 1:-2] = x
    return wide[..., 1:, 1:-2].detach()


def every_other_cell(level: int, x: Tensor) -> Tensor:
    wide = x.new_full((*x.shape[:3], x.shape[3] * 2), math.nan)
    wide[..., ::2] = x
    return wide[..., ::2].detach()


def slice_of_images(level: int, x: Tensor) -> Tensor:
    wide = torch.cat([x[:1], x])
    wide = wide if level % 2 else channels_last(level, wide)
    return wide[1:].detach()


LAYOUTS = [channels_last, mixed, slice_of_images, slice_of_channels, slice_of_cells, every_other_cell]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [lambda level, x: x, channels_last])
@pytest.mark.parametrize("box_loss", ["l1", "smooth_l1", "giou"])
def test_equals_reference(
    box_loss: str, layout: Callable[[int, Tensor], Tensor], dtype: torch.dtype, device: str
) -> None:
    head = Head(make_grid(), boxes_of(4, 0, 30), dtype=dtype, device=device, layout=layout)
    head.assert_equals_reference(box_loss=box_loss)


HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("deltas", [torch.float32, *HALVES])
@pytest.mark.parametrize("logits", [torch.float32, *HALVES])
def test_logits_and_deltas_of_two_dtypes(logits: torch.dtype, deltas: torch.dtype, device: str) -> None:
    head = Head(make_grid(), boxes_of(4, 0, 30), device=device, layout=mixed)
    head.logits = [x.to(logits) for x in head.logits]
    head.deltas = [x.to(deltas) for x in head.deltas]
    head.assert_equals_reference()
    head.assert_equals_reference(scales=(-2.0, 3.0), box_loss="giou")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: Callable[[int, Tensor], Tensor], device: str) -> None:
    boxes = boxes_of(7, 2)
    head = Head(make_grid(), boxes, device=device, layout=layout)
    head.assert_equals_reference()
    losses, grads = head.gradients()
    plain_losses, plain_grads = Head(make_grid(), boxes, device=device).gradients()
    for loss, plain in zip(losses, plain_losses, strict=True):
        torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)  # another order of additions
    for leaf, grad, plain in zip([*head.logits, *head.deltas], grads, plain_grads, strict=True):
        torch.testing.assert_close(grad, plain, rtol=1e-5, atol=1e-9, check_stride=False)
        assert grad.stride() == torch.empty_like(leaf).stride()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [lambda level, x: x, channels_last])
@pytest.mark.parametrize("classes", [80, 90, 91])
def test_images_that_begin_at_any_element(
    classes: int, layout: Callable[[int, Tensor], Tensor], dtype: torch.dtype, device: str
) -> None:
    """Cells and channels whose product is no multiple of a vector, and more elements than a block takes."""
    head = Head(make_grid(2), boxes_of(3, 0, 5), classes, dtype=dtype, device=device, layout=layout)
    head.assert_equals_reference()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("alpha", [-1, 0.0, 0.25, 1.0])
def test_alpha_and_gamma(alpha: float, gamma: float) -> None:
    Head(make_grid(), boxes_of(5, 5), dtype=torch.float64).assert_equals_reference(alpha=alpha, gamma=gamma)
    Head(make_grid(), boxes_of(5, 5), layout=channels_last).assert_equals_reference(alpha=alpha, gamma=gamma)


@pytest.mark.parametrize(
    "options",
    [
        {"box_weights": (10.0, 10.0, 5.0, 5.0)},
        {"box_loss": "smooth_l1", "smooth_l1_beta": 1.0},
        {"box_loss": "smooth_l1", "smooth_l1_beta": 0.0},
        {"box_loss": "giou", "box_weights": (2.0, 2.0, 1.0, 1.0)},
        {"high_threshold": 0.3, "low_threshold": 0.1},
        {"allow_low_quality_matches": False},
    ],
)
def test_options(options: dict[str, object]) -> None:
    Head(make_grid(), boxes_of(5, 12), dtype=torch.float64).assert_equals_reference(**options)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.25, 3.0), (-2.0, 0.0), (0.0, -1.0), (65536.0, 65536.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_incoming_gradients_of_the_two_losses(scales: tuple[float, float], dtype: torch.dtype) -> None:
    Head(make_grid(), boxes_of(3, 6), dtype=dtype).assert_equals_reference(scales=scales)


@given(
    levels=st.integers(1, 6),
    per_cell=st.integers(1, 9),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    classes=st.integers(1, 7),
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    layout=st.sampled_from([None, *LAYOUTS]),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_equals_reference(
    levels: int,
    per_cell: int,
    height: int,
    width: int,
    classes: int,
    counts: list[int],
    layout: Callable[[int, Tensor], Tensor] | None,
    seed: int,
) -> None:
    grid = make_grid(levels, per_cell, (height, width), stride=4)
    boxes = [random_boxes(n, seed=seed + i) for i, n in enumerate(counts)]
    head = Head(grid, boxes, classes, torch.float64, layout=layout or (lambda level, x: x), seed=seed)
    head.assert_equals_reference()


@pytest.mark.parametrize("classes", [1, 2, 91, 200])
@pytest.mark.parametrize("layout", [lambda level, x: x, channels_last])
def test_numbers_of_classes(classes: int, layout: Callable[[int, Tensor], Tensor]) -> None:
    # 200 classes of 9 anchors: a channels-last cell is longer than a block of the kernel.
    Head(make_grid(2, 9, (33, 35)), boxes_of(20), classes, layout=layout).assert_equals_reference()


def adversarial() -> dict[str, list[Tensor]]:
    anchors = make_grid().boxes()
    return {
        "one box": boxes_of(1),
        "a thousand": boxes_of(1000, size=140.0),
        "identical": [random_boxes(1).expand(5, 4)],
        "equal to anchors": [anchors[[0, 5, -1]]],
        "outside of every anchor": [random_boxes(2) + 1e4],
        "huge": [torch.tensor([[-1e4, -1e4, 1e4, 1e4]])],
        "tiny": [torch.tensor([[20.0, 20.0, 20.001, 20.001]])],
    }


@pytest.mark.parametrize("layout", [lambda level, x: x, channels_last])
@pytest.mark.parametrize("name", adversarial())
def test_adversarial_boxes(name: str, layout: Callable[[int, Tensor], Tensor]) -> None:
    Head(make_grid(), adversarial()[name], layout=layout).assert_equals_reference()


def test_box_outside_with_the_guard_is_background() -> None:
    head = Head(make_grid(), [random_boxes(1) + 1e4])
    guarded = head.losses(match_zero_iou=False)
    empty = Head(make_grid(), boxes_of(0)).losses()
    assert guarded["bbox_regression"] == 0
    torch.testing.assert_close(guarded["classification"], empty["classification"])


@pytest.mark.parametrize("layout", [lambda level, x: x, channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ignored_anchors_hide_broken_logits(
    layout: Callable[[int, Tensor], Tensor], dtype: torch.dtype
) -> None:
    grid = make_grid()
    boxes = boxes_of(9)
    head = Head(grid, boxes, dtype=dtype)
    between = (ops.match_anchors(grid, boxes)[0] == -2).reshape(-1)
    assert between.any()
    flat = torch.split(between, [h * w * 3 for h, w in grid.grid_sizes])
    for level, (x, hidden) in enumerate(zip(head.logits, flat, strict=True)):
        height, width = x.shape[2:]
        per_channel = hidden.reshape(height, width, 3).permute(2, 0, 1).repeat_interleave(3, dim=0)
        values = [math.nan, math.inf, -math.inf, 3.0][level % 3]
        head.logits[level] = layout(level, x.masked_fill(per_channel, values))
    losses, grads = head.gradients()
    clean_losses, clean_grads = Head(grid, boxes, dtype=dtype, layout=layout).gradients()
    assert torch.equal(losses[0], clean_losses[0])
    for grad, clean in zip(grads[:3], clean_grads[:3], strict=True):
        assert torch.equal(grad, clean)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_logits_stay_finite_and_right(dtype: torch.dtype) -> None:
    head = Head(make_grid(), boxes_of(9), dtype=dtype)
    head.logits = [(x * 25).clamp(-100, 100) for x in head.logits]
    losses, grads = head.gradients()
    assert all(torch.isfinite(x).all() for x in (*losses, *grads))
    head.assert_equals_reference()


def test_gradcheck() -> None:
    head = Head(make_grid(2, 2, (4, 5)), boxes_of(3, 0), dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (*head.logits, *head.deltas)]
    for box_loss in ("l1", "smooth_l1", "giou"):

        def losses(*leaves: Tensor, box_loss: str = box_loss) -> tuple[Tensor, ...]:
            both = ops.retinanet_loss(
                leaves[:2], leaves[2:], head.grid, head.gt_boxes, head.gt_labels, box_loss=box_loss
            )
            return tuple(both.values())

        assert torch.autograd.gradcheck(losses, leaves, eps=1e-6, atol=1e-6)


def test_anchors_as_a_tensor_equal_the_grid() -> None:
    head = Head(make_grid(), boxes_of(4, 7))
    losses, grads = head.gradients()
    grid = head.grid
    head.grid = grid.boxes()
    tensor_losses, tensor_grads = head.gradients()
    assert all(
        torch.equal(a, b) for a, b in zip([*losses, *grads], [*tensor_losses, *tensor_grads], strict=True)
    )


def test_boxes_in_double_are_matched_in_double() -> None:
    head = Head(make_grid(), [boxes.double() for boxes in boxes_of(4, 7)])
    head.assert_equals_reference()
