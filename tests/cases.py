"""Inputs and tolerances that the tests share, with the reason of each tolerance."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, nan

import pytest
import torch
from torch import Tensor

from retinanet_fast.structures import AnchorGrid

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NO_GPU = "no CUDA device, or a build without CUDA kernels"


def _has_cuda_kernels() -> bool:
    from retinanet_fast import build_info

    return torch.cuda.is_available() and build_info()["plan"].startswith("CPU and CUDA")


needs_gpu = pytest.mark.skipif(not _has_cuda_kernels(), reason=NO_GPU)
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def _clamp_passes_at_its_ends() -> bool:
    end = torch.zeros(1, requires_grad=True)
    end.clamp_min(0).sum().backward()
    return end.grad is not None and end.grad.item() == 1.0


# The kernels pass the gradient at the ends of a clamp, as torch did up to 2.13; the twins follow the torch that runs.
TWIN_PASSES_AT_CLAMP_ENDS = pytest.mark.skipif(
    not _clamp_passes_at_its_ends(),
    reason="this torch's clamp has no gradient at its ends, which the twin follows",
)

# Relative error of one element. Kernels and twins take the same formula but round and order operations
# differently: some tens of units in the last place for the wide types; the narrow ones are computed in float32
# and rounded once at the end, so that two results differ by at most one rounding (2^-11, 2^-8).
RTOL = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# Absolute error where values cancel or underflow: the same for results of order 1; for float16 it is also the
# spacing of its subnormal numbers.
ATOL = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-3}


# What a suppression must not trip over, some of them among boxes of 30 px in an image of 280.
DEGENERATE_BOXES = [
    [1, 1, 1, 1],  # points
    [2, 2, 0, 0],  # inverted
    [2, 0, 0, 2],
    [0, nan, 2, 2],
    [nan, nan, nan, nan],
    [-inf, -inf, inf, inf],
    [0, 0, inf, 2],
    [5, 5, 1e30, 1e30],  # area overflows
    [0, 0, 1e-30, 1e-30],  # area underflows
    [0, 0, 1e-20, 1e-20],  # area is subnormal
    [0, 0, 1e-20, 1e-20],
    [1e6, 1e6, 1e6 + 2, 1e6 + 2],  # far from all others
    [0, 0, 300, 300],  # larger than all others
    [0, 0, 300, 290],
]


def assert_close(actual: Tensor, expected: Tensor, *, scale: float = 1.0) -> None:
    """As `torch.testing.assert_close` with the tolerances above for `actual`'s dtype, times `scale`."""
    torch.testing.assert_close(
        actual,
        expected,
        rtol=RTOL[actual.dtype] * scale,
        atol=ATOL[actual.dtype] * scale,
        equal_nan=True,
        check_stride=False,
    )


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_boxes(
    n: int,
    *,
    seed: int = 0,
    size: float = 100.0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`n` boxes [n, 4] with corners inside `size` x `size` pixels and sides of at least a hundredth of it."""
    corners = torch.rand(n, 4, generator=generator(seed), dtype=torch.float64) * size * 0.6
    corners[:, 2:] = corners[:, :2] + 0.01 * size + corners[:, 2:] * 0.6
    return corners.to(device=device, dtype=dtype)


def crowded(
    n: int, *, seed: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Boxes on a coarse grid, so that IoUs and corners repeat, with scores of which many are equal."""
    rng = generator(seed)
    corner = torch.randint(0, 8, (n, 2), generator=rng)
    size = torch.randint(0, 5, (n, 2), generator=rng)
    boxes = torch.cat([corner, corner + size], dim=1)
    scores = torch.randint(0, max(n // 3, 2), (n,), generator=rng) / 16
    return boxes.to(device, dtype), scores.to(device, dtype)


def random_scores(
    n: int, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.rand(n, generator=generator(seed), dtype=torch.float64).to(device, dtype)


def make_grid(
    levels: int = 3, per_cell: int = 3, size: tuple[int, int] = (13, 17), stride: int = 8, device: str = "cpu"
) -> AnchorGrid:
    """A pyramid over about `size` x `stride` pixels; anchors of one to three cells, centred at the cells' corners."""
    sides = torch.linspace(1.0, 3.0, per_cell)[None] * stride * 2.0 ** torch.arange(levels)[:, None]
    ratios = torch.linspace(0.6, 1.6, per_cell)
    half = torch.stack([-sides, -sides * ratios, sides, sides * ratios], dim=-1).round() / 2
    grid_sizes = tuple(
        (max(1, math.ceil(size[0] / 2**level)), max(1, math.ceil(size[1] / 2**level)))
        for level in range(levels)
    )
    strides = tuple((stride * 2**level - level, stride * 2**level) for level in range(levels))
    return AnchorGrid(half.to(device), strides, grid_sizes)


@contextmanager
def num_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def non_contiguous(tensor: Tensor) -> Tensor:
    """The same values, with strides that no kernel can mistake for a contiguous layout."""
    wide = tensor.new_zeros(*tensor.shape[:-1], tensor.shape[-1] * 2)
    wide[..., ::2] = tensor
    return wide[..., ::2]
