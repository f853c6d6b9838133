"""What only a GPU can show: streams, graphs, devices, synchronisation, errors found later, addresses past 2^31.

The kernels' values are compared by tests/test_kernels.py and the ops' own tests; here the launches are tried.
"""

from __future__ import annotations

from collections.abc import Callable

import kernel_cases
import pytest
import torch
from cases import assert_close, needs_gpu, random_boxes
from kernel_cases import CASES, GRID, assert_same, has_op
from torch import Tensor

import retinanet_fast
from retinanet_fast import ops
from retinanet_fast.structures import AnchorGrid

pytestmark = needs_gpu

MORE = 2**31  # elements: past the last index that an int32 holds
# The op's biggest case; the others differ in options, which change no launch.
LARGEST = {name.split("-")[0]: name for name in CASES if has_op(name) and not name.endswith("empty")}
DTYPES = [torch.float32, torch.bfloat16]

every_case = pytest.mark.parametrize("name", [name for name in CASES if has_op(name)])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
every_op = pytest.mark.parametrize("name", LARGEST.values(), ids=list(LARGEST))


# ---- the fused ops: synchronisation, graphs, errors found later ------------------------------------------------


class Head:
    """A head's outputs on the GPU, with boxes for both images."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(seed)
        sizes = GRID.grid_sizes
        self.logits = [torch.randn(2, 2 * 5, *s, device="cuda", dtype=dtype).requires_grad_() for s in sizes]
        self.deltas = [torch.randn(2, 2 * 4, *s, device="cuda", dtype=dtype).requires_grad_() for s in sizes]
        self.grid = GRID.to("cuda")
        self.boxes = [random_boxes(n, seed=seed + n, device="cuda") for n in (3, 2)]
        self.labels = [torch.arange(n, device="cuda") for n in (3, 2)]
        self.image_sizes = torch.tensor([[80, 90], [64, 50]], device="cuda")

    @property
    def inputs(self) -> list[Tensor]:
        return [*self.logits, *self.deltas, *self.boxes]

    def loss(self) -> list[Tensor]:
        losses = ops.retinanet_loss(self.logits, self.deltas, self.grid, self.boxes, self.labels)
        total = losses["classification"] + losses["bbox_regression"]
        return [*losses.values(), *torch.autograd.grad(total, [*self.logits, *self.deltas])]

    def detect(self) -> list[Tensor]:
        with torch.no_grad():
            found = ops.retinanet_detect(self.logits, self.deltas, self.grid, self.image_sizes)
        return [found.boxes, found.scores, found.labels, found.counts]


@pytest.mark.parametrize("call", [Head.loss, Head.detect], ids=["loss", "detect"])
def test_no_host_synchronisation(call: Callable[[Head], list[Tensor]]) -> None:
    head = Head()
    call(head)  # the first call allocates
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(head)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("call", [Head.loss, Head.detect], ids=["loss", "detect"])
def test_graph_capture(call: Callable[[Head], list[Tensor]]) -> None:
    """A replay computes from the values that the inputs have by then."""
    head = Head()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(head)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(head)
    for seed in (1, 2):
        other = Head(seed)
        with torch.no_grad():
            for old, new in zip(head.inputs, other.inputs, strict=True):
                old.copy_(new)
        graph.replay()
        for a, b in zip(captured, call(other), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def bad_label_of_the_loss() -> None:
    head = Head()
    head.labels[1] = torch.tensor([0, 99], device="cuda")
    head.loss()


def bad_box() -> None:
    ops.match_anchors(GRID.to("cuda"), [torch.tensor([[10.0, 10.0, 10.0, 30.0]], device="cuda")])


BAD_CALLS = {
    "retinanet_loss": (bad_label_of_the_loss, IndexError, "got 99 in row 4"),
    "match_anchors": (bad_box, ValueError, ""),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_data_are_raised_by_the_next_call_and_by_no_other(name: str) -> None:
    call, error, text = BAD_CALLS[name]
    good = Head()
    good.loss()
    call()
    torch.cuda.synchronize()
    with pytest.raises(error, match=rf"^{name} \(an earlier call on cuda:0\): .*{text}"):
        good.loss()
    good.loss()


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_data_are_raised_by_synchronize_errors(name: str) -> None:
    call, error, text = BAD_CALLS[name]
    call()  # the last one: nothing follows it
    with pytest.raises(error, match=rf"^{name} \(on cuda:0\): .*{text}"):
        retinanet_fast.synchronize_errors()
    retinanet_fast.synchronize_errors()


@pytest.mark.parametrize(("op", "label"), [("sigmoid_focal_loss", 3), ("softmax_focal_loss", -1)])
def test_a_bad_class_index_is_raised_by_the_next_call_and_its_row_has_no_loss(op: str, label: int) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).cuda()
    labels = torch.tensor([0, 1, 2, 0, 1], device="cuda")
    expected = getattr(ops, op)(x, labels, reduction="none")
    expected[3] = 0
    labels[3] = label
    assert torch.equal(getattr(ops, op)(x, labels, reduction="none"), expected)
    torch.cuda.synchronize()
    labels[3] = 0
    with pytest.raises(
        IndexError, match=f"{op} .an earlier call on cuda:0.: expected class indices .* got {label} in row 3"
    ):
        getattr(ops, op)(x, labels)
    getattr(ops, op)(x, labels)


# ---- more than 2^31 elements -----------------------------------------------------------------------------------


def require_memory(gigabytes: float) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes * 1e9:
        pytest.skip(f"needs {gigabytes:g} GB of free GPU memory")


def test_focal_losses_past_2_to_the_31() -> None:
    require_memory(40)
    rows, classes, last = MORE // 80 + 1000, 80, 500
    x = torch.randn(rows, classes, device="cuda", dtype=torch.bfloat16).requires_grad_()
    labels = torch.randint(-2, classes, (rows,), device="cuda")
    tail = x.detach()[-last:].clone().requires_grad_()
    for reduction in ("none", "sum"):
        loss = ops.sigmoid_focal_loss(x, labels, reduction=reduction)
        (gradient,) = torch.autograd.grad(loss.sum() if reduction == "none" else loss, x)
        tail_loss = ops.sigmoid_focal_loss(tail, labels[-last:], reduction=reduction)
        (tail_gradient,) = torch.autograd.grad(tail_loss.sum(), tail)
        assert_close(gradient[-last:], tail_gradient)
        if reduction == "none":
            assert_close(loss[-last:], tail_loss)
        del loss, gradient
    probability = ops.softmax_focal_loss(x.detach(), labels.clamp(min=0), reduction="none")
    assert_close(
        probability[-last:],
        ops.softmax_focal_loss(tail.detach(), labels[-last:].clamp(min=0), reduction="none"),
    )


def test_boxes_past_2_to_the_31() -> None:
    require_memory(24)
    n, last = MORE // 4 + 1000, 500
    deltas = torch.randn(n, 4, device="cuda", dtype=torch.bfloat16).mul_(0.1)
    anchors = random_boxes(1000, device="cuda", dtype=torch.bfloat16).repeat(n // 1000 + 1, 1)[:n]
    boxes = ops.decode_boxes(deltas, anchors)
    assert_close(boxes[-last:], ops.decode_boxes(deltas[-last:].clone(), anchors[-last:].clone()))
    encoded = ops.encode_boxes(boxes, anchors)
    assert_close(encoded[-last:], ops.encode_boxes(boxes[-last:].clone(), anchors[-last:].clone()))


def test_box_iou_past_2_to_the_31() -> None:
    require_memory(24)
    rows, columns = MORE // 50_000 + 10, 50_000
    first, second = random_boxes(rows, seed=1, device="cuda"), random_boxes(columns, seed=2, device="cuda")
    iou = ops.box_iou(first, second)
    assert_close(iou[-3:], ops.box_iou(first[-3:].clone(), second))
    assert_close(iou[0], ops.box_iou(first[:1].clone(), second)[0])


def test_retinanet_past_2_to_the_31() -> None:
    """16 images of one level: an image's results are those that it has alone, but for the losses' mean."""
    require_memory(40)
    batch, cells, classes, side, image = 16, 9, 91, 406, 406 * 8
    assert batch * cells * classes * side * side > MORE
    torch.manual_seed(0)
    base = random_boxes(cells, size=120.0) - 60
    grid = AnchorGrid(base[None], ((8, 8),), ((side, side),)).to("cuda")
    options = {"device": "cuda", "dtype": torch.bfloat16}
    logits = torch.randn(batch, cells * classes, side, side, **options).sub_(4).requires_grad_()
    deltas = torch.randn(batch, cells * 4, side, side, **options).mul_(0.1).requires_grad_()
    boxes = [random_boxes(3, seed=i, size=image, device="cuda") for i in range(batch)]
    labels = [torch.arange(3, device="cuda") for _ in range(batch)]

    def losses_of(images: slice) -> tuple[Tensor, Tensor, list[Tensor]]:
        x, d = (tensor.detach()[images].requires_grad_() for tensor in (logits, deltas))
        found = ops.retinanet_loss([x], [d], grid, boxes[images], labels[images])
        total = found["classification"] + found["bbox_regression"]
        gradients = [gradient[-1:] for gradient in torch.autograd.grad(total, [x, d])]
        return found["classification"].detach(), found["bbox_regression"].detach(), gradients

    *losses, gradients = losses_of(slice(0, batch))
    alone = [losses_of(slice(i, i + 1)) for i in range(batch)]
    for index, loss in enumerate(losses):
        assert_close(loss, torch.stack([found[index] for found in alone]).mean())
    for gradient, expected in zip(gradients, alone[-1][2], strict=True):
        assert_close(gradient * batch, expected)
    del gradients, gradient, alone

    def detect(images: slice) -> list[Tensor]:
        with torch.no_grad():
            size = [(image, image)] * len(boxes[images])
            found = ops.retinanet_detect([logits[images]], [deltas[images]], grid, size)
        return [found.boxes[-1], found.scores[-1], found.labels[-1], found.counts[-1]]

    for a, b in zip(detect(slice(0, batch)), detect(slice(batch - 1, batch)), strict=True):
        assert torch.equal(a, b)


# ---- every op ----------------------------------------------------------------------------------------------------


def change_inputs(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """The cases' floating inputs on a GPU pass through `change`."""
    leaf, boxes = kernel_cases.leaf, kernel_cases.random_boxes

    def changed(tensor: Tensor) -> Tensor:
        return change(tensor.detach()) if tensor.is_cuda else tensor

    monkeypatch.setattr(
        kernel_cases, "leaf", lambda *size, **options: changed(leaf(*size, **options)).requires_grad_()
    )
    monkeypatch.setattr(
        kernel_cases, "random_boxes", lambda *size, **options: changed(boxes(*size, **options))
    )


def misaligned(tensor: Tensor) -> Tensor:
    """The same values one element past a 16-byte boundary: no vector of them is aligned."""
    room = tensor.new_empty(tensor.numel() + 1)
    return room[1:].view(tensor.shape).copy_(tensor)


def late(tensor: Tensor) -> Tensor:
    """Zeros, which become the values when this stream has done some milliseconds of nothing."""
    result = torch.zeros_like(tensor)
    torch.cuda._sleep(5_000_000)
    return result.copy_(tensor)


@dtypes
@every_case
def test_misaligned_slices(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    change_inputs(monkeypatch, misaligned)
    assert_same(name, CASES[name]("cuda", dtype), CASES[name]("cpu", dtype))


@dtypes
@every_case
def test_same_bits_on_every_run(name: str, dtype: torch.dtype) -> None:
    first, second = CASES[name]("cuda", dtype), CASES[name]("cuda", dtype)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@every_op
def test_a_second_stream(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch on any other stream would not wait for the inputs."""
    expected = CASES[name]("cpu", torch.float32)
    change_inputs(monkeypatch, late)
    with torch.cuda.stream(torch.cuda.Stream()):
        results = CASES[name]("cuda", torch.float32)
        torch.cuda.current_stream().synchronize()
    assert_same(name, results, expected)


@every_op
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_a_second_device(name: str) -> None:
    with torch.cuda.device(0):
        results = CASES[name]("cuda:1", torch.float32)
    assert all(result.device.index == 1 for result in results)
    assert_same(name, results, CASES[name]("cpu", torch.float32))
