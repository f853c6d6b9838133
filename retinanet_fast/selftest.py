"""``python -m retinanet_fast.selftest``: does the built extension give the right numbers on this machine?

Runs every op, forward and backward, on every device and in every dtype, against its twin in plain PyTorch
(``retinanet_fast.reference``), and once more, which must give the same bits; and a wrong label, which must be an error.
Takes some seconds. Prints versions, the CPU level in use, and for each op and dtype how far it lies from its twin,
relative to its largest number. The exit code is 0 if all is right and 1 if not: the first thing to send with a bug
report.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet_fast import ops, reference, synchronize_errors
from retinanet_fast.engine.environment import describe
from retinanet_fast.structures import AnchorGrid

# How far an op and its twin may lie apart, relative to the largest number of a result. They take the same formula in
# another order: some tens of roundings of the wide types; the narrow ones are computed in float32 and rounded at the
# end, once each.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
EXACT = {"batched_nms", "box_iou", "match_anchors", "nms", "padded_batched_nms", "retinanet_detect"}

GRID = AnchorGrid(
    torch.tensor([[[-12.0, -12, 12, 12], [-16, -9, 16, 9]], [[-24.0, -24, 24, 24], [-32, -18, 32, 18]]]),
    ((8, 8), (16, 16)),
    ((13, 15), (7, 8)),
)
CLASSES = 5


class Inputs:
    """Tensors drawn from one seed, the same on every device; rounded to ``dtype`` before either side sees them."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator().manual_seed(0)

    def normal(self, *shape: int, scale: float = 2.0) -> Tensor:
        drawn = torch.randn(*shape, generator=self._generator, dtype=torch.float64) * scale
        return drawn.to(self.device, self.dtype).requires_grad_()

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator, dtype=torch.float64).to(self.device, self.dtype)

    def labels(self, *shape: int, low: int = 0) -> Tensor:
        return torch.randint(low, CLASSES, shape, generator=self._generator).to(self.device)

    def boxes(self, n: int, size: float = 100.0) -> Tensor:
        corners = torch.rand(n, 4, generator=self._generator, dtype=torch.float64) * size * 0.6
        corners[:, 2:] = corners[:, :2] + 4 + corners[:, 2:] * 0.6
        return corners.to(self.device, self.dtype)

    def head(self) -> tuple[list[Tensor], list[Tensor]]:
        """Two levels of a head's outputs, the second one channels last."""
        outputs = []
        for channels, scale in ((2 * CLASSES, 2.0), (2 * 4, 0.3)):
            levels = [self.normal(2, channels, *size, scale=scale).detach() for size in GRID.grid_sizes]
            levels[1] = levels[1].contiguous(memory_format=torch.channels_last)
            outputs.append([level.requires_grad_() for level in levels])
        return outputs[0], outputs[1]


def with_gradients(outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """The outputs, and the gradients for different weights of their elements."""
    weights = [
        torch.linspace(-1, 2, out.numel(), dtype=torch.float64).to(out).view(out.shape) for out in outputs
    ]
    return [*(out.detach() for out in outputs), *torch.autograd.grad(list(outputs), list(leaves), weights)]


# ---- one case for each op: `f` is the module to take the op from, and every call draws the same inputs ----

Case = Callable[[ModuleType, Inputs], list[Tensor]]


def sigmoid_focal_loss(f: ModuleType, draw: Inputs) -> list[Tensor]:
    found = []
    for reduction in ("none", "sum", "mean"):
        logits, soft = draw.normal(70, CLASSES), draw.uniform(70, CLASSES).requires_grad_()
        found += with_gradients([f.sigmoid_focal_loss(logits, soft, reduction=reduction)], [logits, soft])
        labels = draw.labels(70, low=-2)
        found += with_gradients([f.sigmoid_focal_loss(logits, labels, 0.3, 1.5, reduction)], [logits])
    return found


def softmax_focal_loss(f: ModuleType, draw: Inputs) -> list[Tensor]:
    found = []
    for reduction in ("none", "sum", "mean"):
        logits = draw.normal(70, CLASSES)
        loss = f.softmax_focal_loss(logits, draw.labels(70), [0.1, 0.2, 0.3, 0.4, 0.5], 2.0, reduction)
        found += with_gradients([loss], [logits])
    return found


def box_iou(f: ModuleType, draw: Inputs) -> list[Tensor]:
    return [f.box_iou(draw.boxes(40), draw.boxes(30))]


def encode_boxes(f: ModuleType, draw: Inputs) -> list[Tensor]:
    boxes, anchors = draw.boxes(90).requires_grad_(), draw.boxes(90).requires_grad_()
    return with_gradients([f.encode_boxes(boxes, anchors, (10.0, 10.0, 5.0, 5.0))], [boxes, anchors])


def decode_boxes(f: ModuleType, draw: Inputs) -> list[Tensor]:
    deltas, anchors = draw.normal(90, 4, scale=0.3), draw.boxes(90).requires_grad_()
    return with_gradients([f.decode_boxes(deltas, anchors, image_size=(90, 95))], [deltas, anchors])


def nms(f: ModuleType, draw: Inputs) -> list[Tensor]:
    return [f.nms(draw.boxes(n), draw.uniform(n), 0.5) for n in (0, 1, 70, 1500)]


def batched_nms(f: ModuleType, draw: Inputs) -> list[Tensor]:
    return [f.batched_nms(draw.boxes(n), draw.uniform(n), draw.labels(n), 0.5) for n in (0, 70, 1500)]


def padded_batched_nms(f: ModuleType, draw: Inputs) -> list[Tensor]:
    boxes = torch.stack([draw.boxes(60) for _ in range(3)])
    return list(f.padded_batched_nms(boxes, draw.uniform(3, 60), draw.labels(3, 60), 0.5))


def match_anchors(f: ModuleType, draw: Inputs) -> list[Tensor]:
    gt_boxes = [draw.boxes(n) for n in (7, 0, 40)]
    grid = GRID.to(draw.device)
    return [f.match_anchors(grid, gt_boxes), f.match_anchors(grid.boxes(), gt_boxes)]


def retinanet_loss(f: ModuleType, draw: Inputs) -> list[Tensor]:
    found = []
    for box_loss in ("l1", "smooth_l1", "giou"):
        logits, deltas = draw.head()
        boxes, labels = [draw.boxes(6), draw.boxes(0)], [draw.labels(6), draw.labels(0)]
        losses = f.retinanet_loss(logits, deltas, GRID.to(draw.device), boxes, labels, box_loss=box_loss)
        found += with_gradients(list(losses.values()), [*logits, *deltas])
    return found


def retinanet_detect(f: ModuleType, draw: Inputs) -> list[Tensor]:
    found = f.retinanet_detect(
        *draw.head(), GRID.to(draw.device), [(100, 110), (90, 120)], topk_candidates=150
    )
    return [found.boxes, found.scores, found.labels, found.counts]


ALL: list[Case] = [
    batched_nms,
    box_iou,
    decode_boxes,
    encode_boxes,
    match_anchors,
    nms,
    padded_batched_nms,
    retinanet_detect,
    retinanet_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
]
CASES = {case.__name__: case for case in ALL}


# ---- running them ----


class Result(NamedTuple):
    """``difference`` is relative to the largest number of its tensor; ``problem`` is empty if all is right."""

    difference: float
    problem: str

    @property
    def verdict(self) -> str:
        if self.problem:
            return "WRONG"
        return f"{self.difference:.1g}" if self.difference else "equal"


def check(op: str, device: torch.device, dtype: torch.dtype) -> Result:
    """One op on one device in one dtype."""
    difference, problem = 0.0, ""
    try:
        found, again, expected = (CASES[op](f, Inputs(device, dtype)) for f in (ops, ops, reference))
        allowed = 0.0 if op in EXACT else TOLERANCE[dtype]
        for ours, repeated, twin in zip(found, again, expected, strict=True):
            difference = max(difference, distance(ours, twin))
            if not torch.equal(ours, repeated):
                problem = "not the same bits on the second run"
        if not difference <= allowed:
            problem = f"differs from its twin by {difference:.2g}, where {allowed:.2g} is allowed"
    except Exception as error:  # whatever it is, it is what there is to report
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    return Result(difference, problem)


def distance(ours: Tensor, twin: Tensor) -> float:
    """The largest difference over the twin's largest number; infinite where the two do not compare."""
    if ours.shape != twin.shape or ours.dtype != twin.dtype:
        return float("inf")
    if ours.numel() == 0 or torch.equal(ours, twin):
        return 0.0
    apart = (ours.double() - twin.double()).abs().max().item()
    return apart / max(twin.double().abs().max().item(), 1e-30) if apart == apart else float("inf")


def check_error(device: torch.device) -> str:
    """What is wrong, if anything, with the error that a label outside the classes must be; on CUDA it comes late."""
    try:
        ops.sigmoid_focal_loss(torch.zeros(1, 3, device=device), torch.tensor([3], device=device))
        synchronize_errors()
    except IndexError:
        return ""
    except Exception as error:
        return f"a label outside the classes gives {type(error).__name__}: {error}".splitlines()[0]
    return "a label outside the classes is no error"


def check_device(device: torch.device) -> list[str]:
    """Print a table of ops and dtypes, and return what is wrong."""
    print(f"\n{device!s:<20}" + "".join(f"{_short(dtype):<10}" for dtype in TOLERANCE))
    wrong = []
    for op in CASES:
        results = [check(op, device, dtype) for dtype in TOLERANCE]
        print(f"{op:<20}" + "".join(f"{result.verdict:<10}" for result in results), flush=True)
        wrong += [
            f"{op} on {device} in {_short(dtype)}: {result.problem}"
            for dtype, result in zip(TOLERANCE, results, strict=True)
            if result.problem
        ]
    if problem := check_error(device):
        wrong.append(f"errors on {device}: {problem}")
    return wrong


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks, print them, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m retinanet_fast.selftest",
        description="Every op on this machine against plain PyTorch.",
    )
    parser.add_argument("--device", action="append", type=torch.device, help="such as cuda:1; by default all")
    options = parser.parse_args(arguments)
    for name, value in describe():
        print(f"{name:<20}{value}")
    begin = time.perf_counter()
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    wrong = [
        line for device in options.device or [torch.device("cpu"), *gpus] for line in check_device(device)
    ]
    print()
    for line in wrong:
        print(f"WRONG: {line}")
    print(f"{'FAILED' if wrong else 'all right'}, in {time.perf_counter() - begin:.1f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
