"""One short pass through every kernel: inputs of many shapes for each op, forward and backward, on any device.

`python tests/kernel_cases.py [--device cuda]` runs them all once, for compute-sanitizer.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from cases import assert_close, generator, random_boxes
from torch import Tensor

import retinanet_fast.ops
import retinanet_fast.reference
from retinanet_fast.structures import AnchorGrid, Detections

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

ops: ModuleType = retinanet_fast.ops  # what the cases call


@contextmanager
def eager_twins() -> Iterator[None]:
    """The cases call retinanet_fast.reference inside."""
    global ops
    ops = retinanet_fast.reference
    try:
        yield
    finally:
        ops = retinanet_fast.ops


def kernels_in_sources() -> set[str]:
    """The names of all CUDA kernels."""
    folder = Path(__file__).resolve().parents[1] / "csrc" / "kernels" / "cuda"
    text = "".join(path.read_text() for path in folder.iterdir())
    bounds = r"__launch_bounds__\((?:[^()]|\([^()]*\))*\)"
    return set(re.findall(r"__global__\s+void\s+(\w+)", re.sub(bounds, "", text)))


OTHER_DTYPE = {
    torch.float64: torch.float64,
    torch.float32: torch.bfloat16,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float16,
}

# The tensors that an op returns, and its gradients.
Case = Callable[[str, torch.dtype], list[Tensor]]


def grads(output: Tensor, *leaves: Tensor) -> list[Tensor]:
    """The output and its gradients, for an upstream gradient without symmetry."""
    upstream = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).to(output).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]


def leaf(*shape: int, device: str, dtype: torch.dtype, seed: int = 1, scale: float = 3.0) -> Tensor:
    values = torch.randn(*shape, generator=generator(seed), dtype=torch.float64) * scale
    return values.to(device, dtype).requires_grad_()


def boxes_leaf(n: int, device: str, dtype: torch.dtype, seed: int) -> Tensor:
    return random_boxes(n, seed=seed, device=device, dtype=dtype).requires_grad_()


def focal(rows: int, classes: int, reduction: str, gamma: float, soft: bool) -> Case:
    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        x = leaf(rows, classes, device=device, dtype=dtype)
        if soft:
            target = torch.rand(rows, classes, generator=generator(2), dtype=torch.float64).to(device, dtype)
            target.requires_grad_()
            return grads(ops.sigmoid_focal_loss(x, target, 0.25, gamma, reduction), x, target)
        labels = torch.randint(-2, classes, (rows,), generator=generator(2))
        labels[
            torch.rand(rows, generator=generator(3)) < 0.6
        ] = -1  # whole vectors and warps of background too
        return grads(ops.sigmoid_focal_loss(x, labels.to(device), 0.25, gamma, reduction), x)

    return case


def softmax_focal(rows: int, classes: int, reduction: str, weighted: bool) -> Case:
    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        x = leaf(rows, classes, device=device, dtype=dtype)
        labels = torch.randint(0, classes, (rows,), generator=generator(2)).to(device)
        alpha = torch.linspace(0.1, 0.9, classes).to(device, dtype) if weighted else None
        return grads(ops.softmax_focal_loss(x, labels, alpha, 2.0, reduction), x)

    return case


def under_autocast(case: Case) -> Case:
    """There a reduced loss of half types, and the gradient that comes in, are float32."""

    def autocast_case(device: str, dtype: torch.dtype) -> list[Tensor]:
        narrow = dtype if dtype in (torch.float16, torch.bfloat16) else torch.bfloat16
        with torch.autocast(device, narrow):
            return case(device, dtype)

    return autocast_case


def iou(n: int, m: int) -> Case:
    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        boxes = boxes_leaf(n, device, dtype, 1), boxes_leaf(m, device, dtype, 2)
        return grads(ops.box_iou(*boxes), *boxes)

    return case


def encode(n: int) -> Case:
    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        boxes = boxes_leaf(n, device, dtype, 1), boxes_leaf(n, device, dtype, 2)
        return grads(ops.encode_boxes(*boxes, weights=(10.0, 10.0, 5.0, 5.0)), *boxes)

    return case


def decode(n: int, image_size: tuple[int, int] | None) -> Case:
    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        deltas, anchors = (
            leaf(n, 4, device=device, dtype=dtype, scale=0.3),
            boxes_leaf(n, device, dtype, 2),
        )
        return grads(ops.decode_boxes(deltas, anchors, image_size=image_size), deltas, anchors)

    return case


def suppress(n: int, classes: int | None) -> Case:
    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        boxes = random_boxes(n, seed=1, device=device, dtype=dtype)
        scores = torch.randint(0, max(n // 3, 1), (n,), generator=generator(2)).to(device, dtype)  # with ties
        if classes is None:
            return [ops.nms(boxes, scores, 0.3)]
        labels = torch.randint(0, classes, (n,), generator=generator(3)).to(device)
        return [ops.batched_nms(boxes, scores, labels, 0.3)]

    return case


def suppress_peculiar(kind: str) -> Case:
    """What takes the suppressing kernels through many passes, or none."""

    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        n = 300
        at = torch.arange(n, dtype=torch.float64)
        boxes = torch.tensor([[0.0, 0, 10, 10]], dtype=torch.float64).repeat(n, 1)
        scores = -at / 4  # exact in every type
        classes = None
        if kind == "chain":  # each is hit by the one before alone
            boxes[:, ::2] += 4 * (at % 50)[:, None]
            boxes[:, 1::2] += 20 * (at // 50)[:, None]
        elif kind == "chain-backwards":
            boxes[:, ::2] += 4 * (at % 50)[:, None]
            boxes[:, 1::2] += 20 * (at // 50)[:, None]
            scores = at / 4
        elif kind == "every-class":
            classes = torch.arange(n) * 2**33 - 7  # which differ in the upper half
        elif kind == "one-class":
            classes = torch.zeros(n, dtype=torch.int64)
            boxes[:, ::2] += 3 * (at % 7)[:, None]
        elif kind == "nan":
            boxes += 2 * (at % 9)[:, None]
            boxes[::5, 2] = torch.nan
            scores[::7] = torch.nan
            scores[3::11] = torch.inf
        boxes, scores = boxes.to(device, dtype), scores.to(device, dtype)
        if classes is None:
            return [ops.nms(boxes, scores, 0.3)]
        return [ops.batched_nms(boxes, scores, classes.to(device), 0.3)]

    return case


# A level of odd sizes, and one whose planes are whole 16-byte vectors in every type.
GRID = AnchorGrid(
    torch.tensor([[[-8, -8, 8, 8], [-12, -6, 12, 6.0]], [[-16, -16, 16, 16], [-24, -12, 24, 12.0]]]),
    ((8, 8), (16, 15)),
    ((9, 11), (6, 8)),
)


# Levels that no bound is needed for, one that is searched for a bound as a whole, and whose second image lies at an odd
# place, and one of which a sample is searched.
LARGE_GRID = AnchorGrid(
    torch.tensor([[[-8, -8, 8, 8], [-12, -6, 12, 6.0]]] * 3),
    ((8, 8), (16, 16), (32, 32)),
    ((67, 71), (23, 29), (1, 1)),
)


def match(counts: tuple[int, ...], low_quality: bool, as_grid: bool) -> Case:
    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        gt_boxes = [random_boxes(n, seed=n, device=device) for n in counts]
        grid = GRID.to(device)
        anchors = grid if as_grid else grid.boxes()
        return [ops.match_anchors(anchors, gt_boxes, allow_low_quality_matches=low_quality)]

    return case


def padded(
    boxes: list[Tensor], labels: list[Tensor] | None = None, room: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [B, G, 4], labels [B, G] and counts [B], with padding that no kernel may take for a box."""
    counts = torch.tensor([len(rows) for rows in boxes], device=boxes[0].device)
    all_boxes = boxes[0].new_full((len(boxes), max(map(len, boxes)) + room, 4), torch.nan)
    all_labels = torch.full(all_boxes.shape[:2], -7, device=all_boxes.device)
    for image, rows in enumerate(boxes):
        all_boxes[image, : len(rows)] = rows
        if labels is not None:
            all_labels[image, : len(rows)] = labels[image]
    return all_boxes, all_labels, counts


def match_padded(counts: tuple[int, ...], low_quality: bool) -> Case:
    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        boxes, _, real = padded([random_boxes(n, seed=n, device=device) for n in counts])
        grid = GRID.to(device)
        return [
            ops.match_anchors(
                anchors, boxes, gt_counts=real, allow_low_quality_matches=low_quality, match_zero_iou=False
            )
            for anchors in (grid, grid.boxes())
        ]

    return case


def slice_of(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The same values inside a larger tensor: no image, cell or plane begins where a 16-byte vector does."""
    wide = x.new_zeros(x.shape[0], x.shape[1] + 3, *x.shape[2:]).contiguous(memory_format=memory_format)
    wide[:, 1:-2] = x
    return wide[:, 1:-2]


def head(
    classes: int,
    device: str,
    dtype: torch.dtype,
    channels_last: bool,
    grid: AnchorGrid = GRID,
    sliced: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    outputs = []
    for channels, scale in ((2 * classes, 2.0), (8, 0.3)):
        levels = [
            leaf(2, channels, *size, device=device, dtype=dtype, seed=channels + i, scale=scale)
            for i, size in enumerate(grid.grid_sizes)
        ]
        place = slice_of if sliced else torch.Tensor.contiguous
        outputs.append([place(x.detach(), memory_format=layout).requires_grad_() for x in levels])
    return outputs[0], outputs[1]


def loss(
    box_loss: str,
    classes: int,
    channels_last: bool,
    counts: tuple[int, int] = (3, 0),
    sliced: bool = False,
    grid: AnchorGrid = GRID,
    deltas_dtype: dict[torch.dtype, torch.dtype] | None = None,
    pad: bool = False,
) -> Case:
    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        logits, deltas = head(classes, device, dtype, channels_last, grid, sliced=sliced)
        if deltas_dtype:
            deltas = [x.detach().to(deltas_dtype[dtype]).requires_grad_() for x in deltas]
        gt_boxes = [random_boxes(n, seed=n + 1, device=device) for n in counts]
        gt_labels = [torch.arange(n, device=device) % classes for n in counts]
        targets, real = (gt_boxes, gt_labels), None
        if pad:
            *targets, real = padded(gt_boxes, gt_labels)
        losses = ops.retinanet_loss(
            logits, deltas, grid.to(device), *targets, gt_counts=real, box_loss=box_loss
        )
        total = -2 * losses["classification"] + 3 * losses["bbox_regression"]
        return [*losses.values(), *torch.autograd.grad(total, [*logits, *deltas])]

    return case


def suppress_padded(counts: list[int], n: int) -> Case:
    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        boxes = torch.stack([random_boxes(n, seed=i, device=device, dtype=dtype) for i in range(len(counts))])
        scores = torch.rand(len(counts), n, generator=generator(2)).to(device, dtype)
        labels = torch.randint(0, 3, (len(counts), n), generator=generator(3)).to(device)
        kept = ops.padded_batched_nms(boxes, scores, labels, 0.3, counts=torch.tensor(counts, device=device))
        return list(kept)

    return case


def detect(
    classes: int,
    channels_last: bool,
    topk: int,
    threshold: float,
    soft_nms: str | None = None,
    per_class: bool = False,
    grid: AnchorGrid = GRID,
    detections: int = 50,
    nms_thresh: float = 0.5,
) -> Case:
    def case(device: str, dtype: torch.dtype) -> list[Tensor]:
        logits, deltas = head(classes, device, dtype, channels_last, grid)
        found: Detections = ops.retinanet_detect(
            logits,
            deltas,
            grid.to(device),
            [(80, 90), (64, 50)] if grid is GRID else [(536, 568), (400, 300)],
            score_thresh=torch.linspace(0, 1, classes, device=device) if per_class else threshold,
            soft_nms=soft_nms,
            topk_candidates=topk,
            detections_per_img=detections,
            nms_thresh=nms_thresh,
        )
        return [found.boxes, found.scores, found.labels, found.counts]

    return case


CASES: dict[str, Case] = {
    "box_iou": iou(37, 67),
    **{f"box_iou-{n}x{m}": iou(n, m) for n, m in ((1, 1), (300, 1), (70, 5), (9, 257), (8, 256))},
    "box_iou-empty": iou(37, 0),
    "encode_boxes": encode(301),
    "encode_boxes-empty": encode(0),
    "decode_boxes": decode(301, None),
    "decode_boxes-clipped": decode(301, (60, 50)),
    "decode_boxes-empty": decode(0, None),
    **{
        f"sigmoid_focal_loss-{rows}x{classes}-{reduction}-{gamma}-{'soft' if soft else 'labels'}": focal(
            rows, classes, reduction, gamma, soft
        )
        for rows, classes in ((0, 3), (1, 1), (67, 7), (300, 80), (190, 91))
        for reduction, gamma in (("none", 2.0), ("sum", 2.0), ("mean", 1.5))
        for soft in (False, True)
    },
    **{
        f"softmax_focal_loss-{rows}x{classes}-{reduction}": softmax_focal(rows, classes, reduction, weighted)
        for rows, classes in ((0, 3), (1, 2), (67, 7), (40, 300))
        for reduction, weighted in (("none", True), ("mean", False))
    },
    **{
        f"{op}-autocast-{reduction}": under_autocast(case)
        for reduction in ("none", "sum")
        for op, case in (
            ("sigmoid_focal_loss", focal(67, 7, reduction, 2.0, False)),
            ("softmax_focal_loss", softmax_focal(67, 7, reduction, False)),
        )
    },
    **{f"nms-{n}": suppress(n, None) for n in (0, 1, 64, 65, 257, 700)},
    **{f"nms-{kind}": suppress_peculiar(kind) for kind in ("same", "chain", "chain-backwards", "nan")},
    **{f"batched_nms-{kind}": suppress_peculiar(kind) for kind in ("every-class", "one-class")},
    **{f"batched_nms-{n}-{classes}": suppress(n, classes) for n, classes in ((1, 1), (300, 7), (700, 80))},
    **{
        f"match_anchors-{counts}-{low_quality}-{as_grid}": match(counts, low_quality, as_grid)
        for counts in ((0,), (1, 0), (3, 40, 0))
        for low_quality in (True, False)
        for as_grid in (True, False)
    },
    **{
        f"match_anchors-padded-{counts}-{low_quality}": match_padded(counts, low_quality)
        for counts in ((0,), (3, 40, 0))
        for low_quality in (True, False)
    },
    **{
        f"retinanet_loss-{box_loss}-{classes}-{'nhwc' if last else 'nchw'}": loss(box_loss, classes, last)
        for box_loss, classes in (("l1", 3), ("smooth_l1", 1), ("giou", 8), ("l1", 11))
        for last in (False, True)
    },
    # Images of several tiles, which begin at any element of a vector: 182 channels of 99 cells leave 2 of 8 over.
    **{
        f"retinanet_loss-l1-{classes}-{'nhwc' if last else 'nchw'}{'-sliced' if sliced else ''}": loss(
            "l1", classes, last, (2, 9), sliced
        )
        for classes, sliced in ((90, False), (91, False), (5, True))
        for last in (False, True)
    },
    # Deltas of another dtype than the logits.
    "retinanet_loss-mixed": loss("l1", 3, False, deltas_dtype=OTHER_DTYPE),
    "retinanet_loss-padded": loss("giou", 3, False, (4, 9), pad=True),
    # Several blocks of box losses per image.
    "retinanet_loss-large": loss("l1", 2, True, (5, 40), grid=LARGE_GRID),
    **{
        f"retinanet_detect-{classes}-{'nhwc' if last else 'nchw'}-{topk}": detect(
            classes, last, topk, threshold
        )
        for classes, last, topk, threshold in (
            (3, False, 1000, 0.05),
            (8, True, 40, 0.3),
            (1, False, 7, 0.0),
            (2, False, 50, 1.0),  # which no score reaches
        )
    },
    "retinanet_detect-linear": detect(3, False, 100, 0.05, soft_nms="linear"),
    "retinanet_detect-gaussian": detect(3, True, 100, 0.05, soft_nms="gaussian", per_class=True),
    **{
        f"retinanet_detect-large-{'nhwc' if last else 'nchw'}-{topk}": detect(
            13, last, topk, 0.05, grid=LARGE_GRID, detections=detections, nms_thresh=nms_thresh
        )
        for last, topk, detections, nms_thresh in (
            (False, 100, 50, 0.5),
            (True, 100, 50, 0.5),
            (True, 3500, 1200, 0.3),  # more than are sorted, and kept, in shared memory
        )
    },
    "padded_batched_nms": suppress_padded([70, 0, 33], 70),
}


def assert_same(name: str, results: list[Tensor], expected: list[Tensor]) -> None:
    """One device's results against another's."""
    for actual, wanted in zip(results, expected, strict=True):
        if name.startswith("retinanet_detect"):  # which rounds alike everywhere
            torch.testing.assert_close(actual.cpu(), wanted, rtol=0, atol=0)
        elif actual.is_floating_point():
            # The order of sums differs between devices, so twice the error of one result.
            assert_close(actual.cpu(), wanted, scale=2.0)
        else:
            assert torch.equal(actual.cpu(), wanted), name  # indices, labels and matches: to the bit


def has_op(name: str) -> bool:
    return hasattr(ops, name.split("-")[0])


def main() -> int:
    parse = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parse.add_argument("--device", default="cuda")
    parse.add_argument("--dtypes", default="float32,bfloat16", help="(%(default)s)")
    options = parse.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("kernel_cases: torch finds no GPU here", file=sys.stderr)
        return 2
    names = [name for name in CASES if has_op(name)]
    for dtype in options.dtypes.split(","):
        for name in names:
            CASES[name](options.device, getattr(torch, dtype))
    if options.device == "cuda":
        torch.cuda.synchronize()
    print(f"{len(names)} cases on {options.device}: {options.dtypes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
