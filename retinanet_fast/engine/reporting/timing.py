"""A quick look at each op beside plain PyTorch, for the demo's report; ``retinanet-fast bench`` measures with care."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from retinanet_fast import ops, reference
from retinanet_fast.nn import AnchorGenerator

CLASSES = 20
IMAGE = 256
STRIDES = (8, 16, 32, 64, 128)
SHAPES_PER_CELL = 9
# Greatest ratio that is written out.
MOST_SHOWN = 100


@dataclass
class OpTiming:
    """Median seconds of one op and of its twin in plain PyTorch (``retinanet_fast.reference``) on the same inputs."""

    name: str
    work: str
    ours: float
    plain: float

    @property
    def ratio(self) -> float:
        """The twin's time over the op's."""
        return self.plain / self.ours

    @property
    def ratio_text(self) -> str:
        """The ratio to show. Above 100 it says more about the twin, which may be a Python loop, than about the op."""
        return f"{self.ratio:.1f}x" if self.ratio <= MOST_SHOWN else f">{MOST_SHOWN}x"


Call = Callable[[Any], object]


def time_ops(device: torch.device) -> list[OpTiming]:
    """Time every op of the public surface against ``retinanet_fast.reference``."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for name, work, call in _calls(generator, device):
        ours, plain = (_median(partial(call, module), device) for module in (ops, reference))
        rows.append(OpTiming(name, work, ours, plain))
    return rows


def table(rows: Sequence[OpTiming]) -> str:
    """The timings as text."""
    width = max(len(row.name) for row in rows)
    work = max(len(row.work) for row in rows)
    lines = [f"{'op':<{width}}  {'on':<{work}}  {'ours':>9}  {'plain PyTorch':>13}  plain / ours"]
    for row in rows:
        ours, plain = f"{1e3 * row.ours:.2f} ms", f"{1e3 * row.plain:.2f} ms"
        lines.append(f"{row.name:<{width}}  {row.work:<{work}}  {ours:>9}  {plain:>13}  {row.ratio_text:>12}")
    return "\n".join(lines)


def _calls(generator: torch.Generator, device: torch.device) -> list[tuple[str, str, Call]]:
    def normal(*shape: int, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * deviation + mean).to(device)

    def boxes(count: int) -> Tensor:
        corner = torch.rand(count, 2, generator=generator) * (IMAGE - 64)
        extent = 8 + 56 * torch.rand(count, 2, generator=generator)
        return torch.cat((corner, corner + extent), dim=1).to(device)

    logits = normal(20_000, 80, mean=-4.0)
    labels = torch.randint(-2, 80, (20_000,), generator=generator).to(device)
    anchors, truth, many = boxes(20_000), boxes(50), boxes(2_000)
    scores = torch.rand(2_000, generator=generator).to(device)
    classes = torch.randint(0, CLASSES, (2_000,), generator=generator).to(device)
    deltas = normal(20_000, 4, deviation=0.1)
    rows = normal(20_000, CLASSES)
    targets = torch.randint(0, CLASSES, (20_000,), generator=generator).to(device)

    cells = [IMAGE // stride for stride in STRIDES]
    level_logits = [normal(2, SHAPES_PER_CELL * CLASSES, n, n, mean=-4.0, deviation=1.5) for n in cells]
    level_deltas = [normal(2, SHAPES_PER_CELL * 4, n, n, deviation=0.1) for n in cells]
    grid = _anchor_grid(cells).to(device)
    gt_boxes = [boxes(20), boxes(20)]
    gt_labels = [torch.randint(1, CLASSES, (20,), generator=generator).to(device) for _ in gt_boxes]
    sizes = [(IMAGE, IMAGE)] * 2
    images = f"2 images of {IMAGE} px"

    return [
        (
            "sigmoid_focal_loss",
            "20,000 x 80, forward and backward",
            lambda m: _step(lambda x: m.sigmoid_focal_loss(x, labels, reduction="sum"), [logits]),
        ),
        (
            "softmax_focal_loss",
            f"20,000 x {CLASSES}, forward and backward",
            lambda m: _step(lambda x: m.softmax_focal_loss(x, targets), [rows]),
        ),
        ("box_iou", "20,000 x 50", lambda m: m.box_iou(anchors, truth)),
        ("encode_boxes", "20,000", lambda m: m.encode_boxes(anchors, anchors)),
        ("decode_boxes", "20,000", lambda m: m.decode_boxes(deltas, anchors)),
        ("nms", "2,000 boxes", lambda m: m.nms(many, scores, 0.5)),
        (
            "batched_nms",
            f"2,000 boxes, {CLASSES} classes",
            lambda m: m.batched_nms(many, scores, classes, 0.5),
        ),
        ("match_anchors", f"{images}, 20 boxes each", lambda m: m.match_anchors(grid, gt_boxes)),
        (
            "retinanet_loss",
            f"{images}, forward and backward",
            lambda m: _step(
                lambda *x: sum(m.retinanet_loss(x[:5], x[5:], grid, gt_boxes, gt_labels).values()),
                level_logits + level_deltas,
            ),
        ),
        (
            "retinanet_detect",
            images,
            lambda m: m.retinanet_detect(level_logits, level_deltas, grid, sizes),
        ),
    ]


def _step(loss: Callable[..., Any], inputs: list[Tensor]) -> None:
    """One forward and backward pass."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    torch.autograd.grad(loss(*leaves), leaves)


def _anchor_grid(cells: list[int]) -> Any:
    sizes = tuple((4 * s, int(4 * s * 2 ** (1 / 3)), int(4 * s * 2 ** (2 / 3))) for s in STRIDES)
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    return generator((IMAGE, IMAGE), [(n, n) for n in cells])


def _median(call: Callable[[], object], device: torch.device, seconds: float = 0.15) -> float:
    """Median time of a call after one to warm up, over ``seconds`` and at least three repeats."""
    times: list[float] = []
    for repeat in range(200):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repeat >= 1:
            times.append(time.perf_counter() - start)
        if len(times) >= 3 and sum(times) > seconds:
            break
    return statistics.median(times)
