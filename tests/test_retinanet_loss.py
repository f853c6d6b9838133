import math
from collections.abc import Callable

import pytest
import torch
from cases import DEVICES, DTYPES, generator, make_grid, num_threads, random_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retinanet_fast import ops, reference
from retinanet_fast.structures import AnchorGrid

# A loss is a sum of many float32 terms, added in another order than the twin's; a term's error is a few units in
# the last place of float32 (float64) in both.
LOSS_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
# Relative to a level's largest gradient. Half types round each gradient once, to 2^-11 and 2^-8.
GRAD_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


class Head:
    """Outputs of a head for a batch of images, and what they are trained with."""

    def __init__(
        self,
        grid: AnchorGrid,
        gt_boxes: list[Tensor],
        classes: int = 3,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        layout: Callable[[int, Tensor], Tensor] = lambda level, x: x,
        seed: int = 0,
    ) -> None:
        rng = generator(seed)
        batch, per_cell = len(gt_boxes), grid.base_anchors.shape[1]

        def outputs(values: int, scale: float) -> list[Tensor]:
            shapes = [(batch, per_cell * values, *size) for size in grid.grid_sizes]
            drawn = [torch.randn(shape, generator=rng, dtype=torch.float64) * scale for shape in shapes]
            return [layout(level, x.to(device, dtype)) for level, x in enumerate(drawn)]

        self.grid = grid.to(device)
        self.logits = outputs(classes, 2.0)
        self.deltas = outputs(4, 0.3)
        self.gt_boxes = [boxes.to(device) for boxes in gt_boxes]
        self.gt_labels = [
            torch.randint(classes, (len(boxes),), generator=rng).to(device) for boxes in gt_boxes
        ]

    def losses(
        self, op: Callable[..., dict[str, Tensor]] = ops.retinanet_loss, **options: object
    ) -> dict[str, Tensor]:
        return op(self.logits, self.deltas, self.grid, self.gt_boxes, self.gt_labels, **options)

    def gradients(
        self,
        op: Callable[..., dict[str, Tensor]] = ops.retinanet_loss,
        scales: tuple[float, float] = (1.0, 1.0),
        **options: object,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The two losses, and the gradient of their weighted sum by every level's logits and deltas."""
        leaves = [*self.logits, *self.deltas]
        for leaf in leaves:
            leaf.requires_grad_()
        losses = list(self.losses(op, **options).values())
        total = scales[0] * losses[0] + scales[1] * losses[1]
        return losses, list(torch.autograd.grad(total, leaves))

    def assert_equals_reference(self, scales: tuple[float, float] = (1.0, 1.0), **options: object) -> None:
        losses, grads = self.gradients(scales=scales, **options)
        expected_losses, expected_grads = self.gradients(reference.retinanet_loss, scales, **options)
        for loss, expected in zip(losses, expected_losses, strict=True):
            assert loss.shape == ()
            tolerance = LOSS_TOLERANCE[loss.dtype]
            torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
        for leaf, grad, expected in zip([*self.logits, *self.deltas], grads, expected_grads, strict=True):
            assert grad.dtype == leaf.dtype
            # Half types have subnormal numbers of their own spacing.
            tolerance = (
                GRAD_TOLERANCE[leaf.dtype] * float(expected.abs().max()) + torch.finfo(leaf.dtype).tiny
            )
            torch.testing.assert_close(
                grad, expected, rtol=0, atol=tolerance, equal_nan=True, check_stride=False
            )


def boxes_of(*counts: int, size: float = 100.0) -> list[Tensor]:
    return [random_boxes(count, seed=seed, size=size) for seed, count in enumerate(counts)]


def channels_last(level: int, x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def mixed(level: int, x: Tensor) -> Tensor:
    return x if level % 2 else channels_last(level, x)


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


LAYOUTS = [channels_last, mixed, slice_of_channels, slice_of_cells, every_other_cell]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [lambda level, x: x, channels_last])
@pytest.mark.parametrize("box_loss", ["l1", "smooth_l1", "giou"])
def test_equals_reference(
    box_loss: str, layout: Callable[[int, Tensor], Tensor], dtype: torch.dtype, device: str
) -> None:
    head = Head(make_grid(), boxes_of(4, 0, 30), dtype=dtype, device=device, layout=layout)
    head.assert_equals_reference(box_loss=box_loss)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_second_backward_is_right(dtype: torch.dtype) -> None:
    head = Head(make_grid(), boxes_of(4, 2), dtype=dtype)
    leaves = [x.requires_grad_() for x in (*head.logits, *head.deltas)]
    classification, regression = head.losses().values()
    first = torch.autograd.grad(classification, head.logits, retain_graph=True)
    both = torch.autograd.grad(3 * classification + regression, leaves, retain_graph=True)
    again = torch.autograd.grad(3 * classification + regression, leaves)
    for a, b, single in zip(both, again, first, strict=False):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, 3 * single, rtol=GRAD_TOLERANCE[dtype] * 2, atol=1e-7)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(classification, leaves)


def test_gradients_accumulate() -> None:
    head = Head(make_grid(), boxes_of(4, 2))
    _, once = head.gradients()
    for _ in range(2):
        (sum(head.losses().values()) / 2).backward()
    for leaf, grad in zip([*head.logits, *head.deltas], once, strict=True):
        torch.testing.assert_close(leaf.grad, grad)


def test_only_what_needs_a_gradient_gets_one() -> None:
    head = Head(make_grid(), boxes_of(4))
    assert not any(loss.requires_grad for loss in head.losses().values())
    head.deltas[1].requires_grad_()
    losses = head.losses()
    assert losses["bbox_regression"].requires_grad
    assert not losses["classification"].requires_grad
    losses["bbox_regression"].backward()
    assert head.deltas[1].grad is not None
    assert head.deltas[0].grad is None
    with torch.no_grad():
        assert not any(loss.requires_grad for loss in head.losses().values())


def test_second_derivative_raises() -> None:
    head = Head(make_grid(), boxes_of(4))
    head.logits[0].requires_grad_()
    (grad,) = torch.autograd.grad(head.losses()["classification"], head.logits[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="retinanet_loss: has no second derivative"):
        torch.autograd.grad(grad.sum(), head.logits[0])


def test_inputs_changed_in_place_are_noticed() -> None:
    head = Head(make_grid(), boxes_of(4))
    head.logits[0].requires_grad_()
    inner = head.logits[0] * 1
    head.logits = [inner, *head.logits[1:]]
    loss = head.losses()["classification"]
    inner.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("layout", [lambda level, x: x, channels_last])
def test_same_bits_on_any_number_of_threads(layout: Callable[[int, Tensor], Tensor]) -> None:
    results = []
    for threads in (1, 2, 2):
        head = Head(make_grid(4, 9, (50, 60)), boxes_of(20, 5, size=400.0), 11, layout=layout)
        with num_threads(threads):
            losses, grads = head.gradients()
        results.append([*losses, *grads])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


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


def test_autocast_and_grad_scaler() -> None:
    weight = torch.randn(12, 8, 1, 1, generator=generator(1)).mul(0.1).requires_grad_()
    features = torch.randn(1, 8, 13, 17, generator=generator(2))
    head = Head(make_grid(1), boxes_of(6), classes=4)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head.logits = [torch.nn.functional.conv2d(features, weight)]
        assert head.logits[0].dtype == torch.bfloat16
        head.deltas = [x.bfloat16() for x in head.deltas]
        losses = head.losses()
        expected = head.losses(reference.retinanet_loss)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=1e-5, atol=1e-6)
    (scaled,) = torch.autograd.grad(scaler.scale(losses["classification"]), weight, retain_graph=True)
    (plain,) = torch.autograd.grad(expected["classification"], weight)
    # bfloat16 gradients of 221 positions, rounded separately.
    torch.testing.assert_close(scaled / 1024.0, plain, rtol=0, atol=0.02 * float(plain.abs().max()))


def arguments(head: Head) -> tuple[object, ...]:
    pairs = [[n for pair in pairs for n in pair] for pairs in (head.grid.strides, head.grid.grid_sizes)]
    rule = (0.25, 2.0, "l1", 1 / 9, (1.0, 1.0, 1.0, 1.0), 0.5, 0.4, True, True)
    return (
        head.logits, head.deltas, head.grid.base_anchors, *pairs, head.gt_boxes, head.gt_labels, *rule
    )  # fmt: skip


@pytest.mark.parametrize("layout", [lambda level, x: x, mixed])
def test_opcheck(layout: Callable[[int, Tensor], Tensor]) -> None:
    head = Head(make_grid(), boxes_of(4, 2), layout=layout)
    for leaf in (*head.logits, *head.deltas):
        leaf.requires_grad_()
    torch.library.opcheck(torch.ops.retinanet_fast.retinanet_loss.default, arguments(head))
    for leaf in (*head.logits, *head.deltas):
        leaf.requires_grad_(False)
    ones = (torch.ones(()), torch.ones(()))
    torch.library.opcheck(torch.ops.retinanet_fast.retinanet_loss_backward.default, (*ones, *arguments(head)))


def test_compile() -> None:
    def total(logits: list, deltas: list, grid: AnchorGrid, boxes: list, labels: list) -> Tensor:
        losses = ops.retinanet_loss(logits, deltas, grid, boxes, labels)
        return losses["classification"] + 2 * losses["bbox_regression"]

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for size, counts in (((13, 17), (4, 2)), ((14, 18), (4, 2)), ((9, 30), (1, 0))):
        head = Head(make_grid(size=size), boxes_of(*counts))
        leaves = [x.requires_grad_() for x in (*head.logits, *head.deltas)]
        results = []
        for function in (total, compiled):
            loss = function(head.logits, head.deltas, head.grid, head.gt_boxes, head.gt_labels)
            results.append([loss, *torch.autograd.grad(loss, leaves)])
        for eager, traced in zip(*results, strict=True):
            torch.testing.assert_close(eager, traced, rtol=1e-6, atol=1e-9)


def change(head: Head, **attributes: object) -> Head:
    for name, value in attributes.items():
        setattr(head, name, value)
    return head


# One row: of several, CUDA names any.
NO_AREA_IN_ROW_2 = boxes_of(4)[0] * torch.tensor([[1.0], [1.0], [0.0], [1.0]])


@pytest.mark.parametrize(
    ("attributes", "options", "error", "message"),
    [
        ({"logits": []}, {}, ValueError, "expected one or more levels of cls_logits .* got 0 and 3"),
        ({"logits": [torch.zeros(2, 9, 13, 17)]}, {}, ValueError, "as many of bbox_regression, got 1 and 3"),
        ({"gt_boxes": boxes_of(1)}, {}, ValueError, "gt_boxes and gt_labels of 2 images, got 1 and 2"),
        ({"gt_labels": [torch.zeros(5).long()] * 2}, {}, ValueError, "a label for each box of image 0"),
        ({"gt_labels": [torch.zeros(4), torch.zeros(2)]}, {}, TypeError, "gt_labels of int64 or int32"),
        ({"gt_labels": [torch.full((4,), 3), torch.zeros(2).long()]}, {}, IndexError, r"\[0, 3\), got 3 in image 0"),
        ({"gt_labels": [torch.full((4,), -1), torch.zeros(2).long()]}, {}, IndexError, r"\[0, 3\), got -1 in image 0"),
        ({"gt_boxes": [NO_AREA_IN_ROW_2, boxes_of(2)[0]]}, {}, ValueError, "finite gt_boxes .* image 0, row 2"),
        ({"grid": make_grid(size=(14, 17))}, {}, ValueError, "expected an AnchorGrid of 3 levels .* 13 x 17 cells"),
        ({"grid": torch.zeros(5, 4)}, {}, ValueError, r"expected \d+ anchors for these levels, got 5"),
        ({}, {"box_loss": "l2"}, ValueError, "expected box_loss 'l1', 'smooth_l1' or 'giou', got 'l2'"),
        ({}, {"alpha": 1.5}, ValueError, r"expected alpha in \[0, 1\], or -1 for none, got 1.5"),
        ({}, {"gamma": -1.0}, ValueError, "expected .*gamma"),
        ({}, {"box_weights": (1.0,)}, ValueError, "expected 4 box_weights"),
        ({}, {"smooth_l1_beta": -1.0}, ValueError, "expected smooth_l1_beta >= 0"),
        ({}, {"low_threshold": 0.9}, ValueError, "expected low_threshold <= high_threshold"),
    ],
)  # fmt: skip
def test_bad_input(
    attributes: dict[str, object], options: dict[str, object], error: type[Exception], message: str
) -> None:
    head = change(Head(make_grid(), boxes_of(4, 2)), **attributes)
    with pytest.raises(error, match="retinanet_loss: .*" + message):
        head.losses(**options)


def test_outputs_of_different_shape_or_dtype() -> None:
    head = Head(make_grid(), boxes_of(4, 2))
    halves = change(Head(make_grid(), boxes_of(4, 2)), deltas=[x.half() for x in head.deltas])
    with pytest.raises(TypeError, match="expected bbox_regression of dtype Float, got Half"):
        halves.losses()
    transposed = change(Head(make_grid(), boxes_of(4, 2)), logits=[x.mT for x in head.logits])
    with pytest.raises(ValueError, match=r"expected cls_logits\[0\] .* beside its bbox_regression"):
        transposed.losses()


def test_extra_memory_is_small() -> None:
    head = Head(make_grid(2, 9, (32, 32)), boxes_of(20, 20, size=200.0), classes=80)
    for leaf in (*head.logits, *head.deltas):
        leaf.requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        losses = head.losses()
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    outputs = sum(x.nbytes for x in (*head.logits, *head.deltas))
    logits = sum(x.nbytes for x in head.logits)
    assert outputs <= allocated <= outputs + 0.05 * logits
    del losses


def test_equals_torchvision() -> None:
    pytest.importorskip("torchvision", reason="torchvision is not importable here")
    import torchvision
    from torchvision.models.detection._utils import Matcher
    from torchvision.models.detection.retinanet import RetinaNetHead

    classes = 5
    head = Head(make_grid(), boxes_of(4, 0, 30), classes)
    theirs = RetinaNetHead(8, 3, classes)
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    anchors = head.grid.boxes()
    leaves = [x.requires_grad_() for x in (*head.logits, *head.deltas)]

    def flatten(outputs: list[Tensor], values: int) -> Tensor:
        rows = [
            x.view(len(x), -1, values, *x.shape[2:]).permute(0, 3, 4, 1, 2).reshape(len(x), -1, values)
            for x in outputs
        ]
        return torch.cat(rows, dim=1)

    outputs = {"cls_logits": flatten(head.logits, classes), "bbox_regression": flatten(head.deltas, 4)}
    targets = [{"boxes": b, "labels": n} for b, n in zip(head.gt_boxes, head.gt_labels, strict=True)]
    matches = [
        matcher(torchvision.ops.box_iou(b, anchors)) if len(b) else torch.full((len(anchors),), -1)
        for b in head.gt_boxes
    ]
    expected = theirs.compute_loss(targets, outputs, [anchors] * 3, matches)
    losses = head.losses()
    # torchvision takes 1 - p by subtraction, which costs a digit.
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)
    for ours, other in zip(
        torch.autograd.grad(sum(losses.values()), leaves),
        torch.autograd.grad(sum(expected.values()), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-7)
