"""The CUDA kernels themselves, executed on the CPU by tests/emulator: `make test-kernels` runs this file and the ops'
own tests so. Here: the same results as the CPU kernels, in any order of blocks and threads; every kernel is run; and
the emulator finds planted faults."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import assert_close, generator, random_boxes
from torch import Tensor

if "tests.emulator.plugin" not in sys.modules:
    pytest.skip("needs the emulator: make test-kernels", allow_module_level=True)

from retinanet_fast import ops
from retinanet_fast.structures import AnchorGrid, Detections
from tests.emulator import plugin

ROOT = Path(__file__).resolve().parent.parent
EMULATOR = ROOT / "tests" / "emulator"

# Kernels that the emulator cannot run, with the reason of each.
NOT_RUN: dict[str, str] = {}

Case = Callable[[torch.dtype], list[Tensor]]


def grads(output: Tensor, *leaves: Tensor) -> list[Tensor]:
    """The output and its gradients, for an upstream gradient without symmetry."""
    upstream = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).to(output.dtype).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]


def leaf(*shape: int, dtype: torch.dtype, seed: int = 1, scale: float = 3.0) -> Tensor:
    values = torch.randn(*shape, generator=generator(seed), dtype=torch.float64) * scale
    return values.to(dtype).requires_grad_()


def boxes_leaf(n: int, dtype: torch.dtype, seed: int) -> Tensor:
    return random_boxes(n, seed=seed, dtype=dtype).requires_grad_()


def focal(rows: int, classes: int, reduction: str, gamma: float, soft: bool) -> Case:
    def case(dtype: torch.dtype) -> list[Tensor]:
        x = leaf(rows, classes, dtype=dtype)
        if soft:
            target = torch.rand(rows, classes, generator=generator(2), dtype=torch.float64).to(dtype)
            target.requires_grad_()
            return grads(ops.sigmoid_focal_loss(x, target, 0.25, gamma, reduction), x, target)
        labels = torch.randint(-2, classes, (rows,), generator=generator(2))
        return grads(ops.sigmoid_focal_loss(x, labels, 0.25, gamma, reduction), x)

    return case


def softmax_focal(rows: int, classes: int, reduction: str, weighted: bool) -> Case:
    def case(dtype: torch.dtype) -> list[Tensor]:
        x = leaf(rows, classes, dtype=dtype)
        labels = torch.randint(0, classes, (rows,), generator=generator(2))
        alpha = torch.linspace(0.1, 0.9, classes).to(dtype) if weighted else None
        return grads(ops.softmax_focal_loss(x, labels, alpha, 2.0, reduction), x)

    return case


def iou(dtype: torch.dtype) -> list[Tensor]:
    boxes = boxes_leaf(37, dtype, 1), boxes_leaf(67, dtype, 2)
    return grads(ops.box_iou(*boxes), *boxes)


def encode(dtype: torch.dtype) -> list[Tensor]:
    boxes = boxes_leaf(301, dtype, 1), boxes_leaf(301, dtype, 2)
    return grads(ops.encode_boxes(*boxes, weights=(10.0, 10.0, 5.0, 5.0)), *boxes)


def decode(image_size: tuple[int, int] | None) -> Case:
    def case(dtype: torch.dtype) -> list[Tensor]:
        deltas, anchors = leaf(301, 4, dtype=dtype, scale=0.3), boxes_leaf(301, dtype, 2)
        return grads(ops.decode_boxes(deltas, anchors, image_size=image_size), deltas, anchors)

    return case


def suppress(n: int, classes: int | None) -> Case:
    def case(dtype: torch.dtype) -> list[Tensor]:
        boxes = random_boxes(n, seed=1, dtype=dtype)
        scores = torch.randint(0, max(n // 3, 1), (n,), generator=generator(2)).to(dtype)  # with ties
        if classes is None:
            return [ops.nms(boxes, scores, 0.3)]
        labels = torch.randint(0, classes, (n,), generator=generator(3))
        return [ops.batched_nms(boxes, scores, labels, 0.3)]

    return case


GRID = AnchorGrid(
    torch.tensor([[[-8, -8, 8, 8], [-12, -6, 12, 6.0]], [[-16, -16, 16, 16], [-24, -12, 24, 12.0]]]),
    ((8, 8), (16, 15)),
    ((9, 11), (5, 6)),
)


def match(counts: tuple[int, ...], low_quality: bool, as_grid: bool) -> Case:
    def case(dtype: torch.dtype) -> list[Tensor]:
        gt_boxes = [random_boxes(n, seed=n, dtype=torch.float32) for n in counts]
        anchors = GRID if as_grid else GRID.boxes()
        return [ops.match_anchors(anchors, gt_boxes, allow_low_quality_matches=low_quality)]

    return case


def head(classes: int, dtype: torch.dtype, channels_last: bool) -> tuple[list[Tensor], list[Tensor]]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    outputs = []
    for channels, scale in ((2 * classes, 2.0), (8, 0.3)):
        levels = [
            leaf(2, channels, *size, dtype=dtype, seed=channels + i, scale=scale)
            for i, size in enumerate(GRID.grid_sizes)
        ]
        outputs.append([x.detach().contiguous(memory_format=layout).requires_grad_() for x in levels])
    return outputs[0], outputs[1]


def loss(box_loss: str, classes: int, channels_last: bool, counts: tuple[int, int] = (3, 0)) -> Case:
    def case(dtype: torch.dtype) -> list[Tensor]:
        logits, deltas = head(classes, dtype, channels_last)
        gt_boxes = [random_boxes(n, seed=n + 1, dtype=torch.float32) for n in counts]
        gt_labels = [torch.arange(n) % classes for n in counts]
        losses = ops.retinanet_loss(logits, deltas, GRID, gt_boxes, gt_labels, box_loss=box_loss)
        total = 2 * losses["classification"] + 3 * losses["bbox_regression"]
        return [*losses.values(), *torch.autograd.grad(total, [*logits, *deltas])]

    return case


def detect(classes: int, channels_last: bool, topk: int, threshold: float) -> Case:
    def case(dtype: torch.dtype) -> list[Tensor]:
        logits, deltas = head(classes, dtype, channels_last)
        found: Detections = ops.retinanet_detect(
            logits,
            deltas,
            GRID,
            [(80, 90), (64, 50)],
            score_thresh=threshold,
            topk_candidates=topk,
            detections_per_img=50,
        )
        return [found.boxes, found.scores, found.labels, found.counts]

    return case


CASES: dict[str, Case] = {
    "box_iou": iou,
    "encode_boxes": encode,
    "decode_boxes": decode(None),
    "decode_boxes-clipped": decode((60, 50)),
    **{
        f"sigmoid_focal_loss-{rows}x{classes}-{reduction}-{gamma}-{'soft' if soft else 'labels'}": focal(
            rows, classes, reduction, gamma, soft
        )
        for rows, classes in ((1, 1), (67, 7), (300, 80))
        for reduction, gamma in (("none", 2.0), ("sum", 2.0), ("mean", 1.5))
        for soft in (False, True)
    },
    **{
        f"softmax_focal_loss-{rows}x{classes}-{reduction}": softmax_focal(rows, classes, reduction, weighted)
        for rows, classes in ((1, 2), (67, 7), (40, 300))
        for reduction, weighted in (("none", True), ("mean", False))
    },
    **{f"nms-{n}": suppress(n, None) for n in (1, 64, 65, 700)},
    **{f"batched_nms-{n}-{classes}": suppress(n, classes) for n, classes in ((1, 1), (300, 7), (700, 80))},
    **{
        f"match_anchors-{counts}-{low_quality}-{as_grid}": match(counts, low_quality, as_grid)
        for counts in ((0,), (1, 0), (3, 40, 0))
        for low_quality in (True, False)
        for as_grid in (True, False)
    },
    **{
        f"retinanet_loss-{box_loss}-{classes}-{'nhwc' if last else 'nchw'}": loss(box_loss, classes, last)
        for box_loss, classes in (("l1", 3), ("smooth_l1", 1), ("giou", 8))
        for last in (False, True)
    },
    **{
        f"retinanet_detect-{classes}-{'nhwc' if last else 'nchw'}-{topk}": detect(
            classes, last, topk, threshold
        )
        for classes, last, topk, threshold in ((3, False, 1000, 0.05), (8, True, 40, 0.3), (1, False, 7, 0.0))
    },
}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def run(name: str, dtype: torch.dtype) -> list[Tensor]:
    if not hasattr(ops, name.split("-")[0]):
        pytest.skip(f"this build has no {name}")
    return CASES[name](dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("name", CASES)
def test_equals_the_cpu_kernels(name: str, dtype: torch.dtype) -> None:
    plugin.seed(1)
    emulated = run(name, dtype)
    with plugin.cpu_kernels():
        expected = run(name, dtype)
    for actual, wanted in zip(emulated, expected, strict=True):
        if actual.is_floating_point():
            # The order of sums differs between devices, so twice the error of one result.
            assert_close(actual, wanted, scale=2.0)
        else:
            assert torch.equal(actual, wanted)  # indices, labels and matches: to the bit


@pytest.mark.parametrize("name", CASES)
def test_same_bits_in_any_order(name: str) -> None:
    results = []
    for seed in (1, 2, 3):
        plugin.seed(seed)
        results.append(run(name, torch.float32))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a.nan_to_num(-7.0), b.nan_to_num(-7.0))


def kernels_in_sources() -> set[str]:
    text = "".join(path.read_text() for path in (ROOT / "csrc" / "kernels" / "cuda").iterdir())
    return set(
        re.findall(
            r"__global__\s+(?:__launch_bounds__\([^)]*\)\s*)?void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)",
            text,
        )
    )


def test_every_kernel_has_run() -> None:
    for name, case in CASES.items():
        if hasattr(ops, name.split("-")[0]):
            case(torch.float32)
    launched = {name.split("<")[0] for name in plugin.launched_kernels()}
    assert kernels_in_sources() - launched == set(NOT_RUN)


@pytest.fixture(scope="module")
def fault(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, bool], subprocess.CompletedProcess[str]]:
    """Builds a file of tests/emulator/faults with or without its fault, and runs it."""
    folder = tmp_path_factory.mktemp("faults")
    compiler = [
        "g++",
        "-std=c++20",
        "-O1",
        "-g",
        f"-I{EMULATOR / 'include'}",
        f"-I{EMULATOR}",
        f"-I{ROOT / 'csrc'}",
    ]
    runtime = [str(EMULATOR / "emulator.cpp"), str(EMULATOR / "memory.cpp"), "-ldl"]
    checks = ["-fsanitize=thread,alignment,bounds", "-fno-sanitize-recover=all"]
    for source in ("emulator", "memory"):
        command = [*compiler, "-c", str(EMULATOR / f"{source}.cpp"), "-o", str(folder / f"{source}.o")]
        subprocess.run(command, check=True)
    runtime = [str(folder / "emulator.o"), str(folder / "memory.o")]

    def build_and_run(name: str, planted: bool) -> subprocess.CompletedProcess[str]:
        built = folder / f"{name}-{planted}"
        define = ["-DFAULT"] if planted else []
        source = str(EMULATOR / "faults" / f"{name}.cu")
        # Compiled with instrumentation, linked without: the hooks are ours.
        subprocess.run(
            [*compiler, *checks, *define, "-x", "c++", "-c", source, "-o", f"{built}.o"], check=True
        )
        subprocess.run(["g++", f"{built}.o", *runtime, "-ldl", "-o", str(built)], check=True)
        environment = {"PATH": "/usr/bin:/bin"}  # not the sanitizers that this process may run under
        return subprocess.run([str(built)], capture_output=True, text=True, env=environment)

    return build_and_run


@pytest.mark.parametrize(
    ("name", "report"),
    [
        (
            "missing_barrier",
            r"kernel reverse_kernel, block \(0, 0, 0\), thread \(\d+, 0, 0\): .*copy in shared memory",
        ),
        (
            "off_by_one",
            r"kernel double_kernel, block \(3, 0, 0\), thread \(4, 0, 0\): .*outside every buffer, 0 bytes past",
        ),
        (
            "missing_lane",
            r"kernel sum_kernel, block \(0, 0, 0\), thread \(31, 0, 0\): .*leaves out the calling lane 31",
        ),
        (
            "uninitialised_read",
            r"kernel histogram_kernel, block \(0, 0, 0\), thread .* that no thread .* has written",
        ),
        (
            "small_workspace",
            r"kernel partial_sums_kernel, block \(2, 0, 0\), thread \(0, 0, 0\): writes .* one of 8",
        ),
        (
            "barrier_not_reached",
            r"kernel early_return_kernel, .* waits at __syncthreads, which not all .* returned",
        ),
        ("misaligned_load", r"kernel copy_kernel, block \(0, 0, 0\), thread .*: misaligned access"),
        ("race", r"kernel shift_kernel, .* thread .* with no barrier between"),
    ],
)
def test_a_planted_fault_is_found(
    name: str, report: str, fault: Callable[[str, bool], subprocess.CompletedProcess[str]]
) -> None:
    right = fault(name, False)
    assert (right.returncode, right.stdout) == (0, "")
    wrong = fault(name, True)
    assert wrong.returncode == 1
    assert re.match(report, wrong.stdout), wrong.stdout
