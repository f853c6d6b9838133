"""The pyramid's bfloat16 gradients on the CPU do not hold what was in memory before."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from children import HERE, child_environment

from retinanet_fast.models import LastLevelP6P7


def gradients(height: int, width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    levels = LastLevelP6P7(32, 32)
    p5 = torch.randn(2, 32, height, width)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        found = levels(p5.to(dtype), p5)
    sum(level.float().square().sum() for level in found).backward()
    return [parameter.grad for parameter in levels.parameters() if parameter.grad is not None]


def check(height: int, width: int) -> None:
    for low, full in zip(
        gradients(height, width, torch.bfloat16), gradients(height, width, torch.float32), strict=True
    ):
        # Two convolutions and their gradients, each rounded to 8 bits, beside the largest element.
        torch.testing.assert_close(low, full, rtol=0, atol=0.05 * float(full.abs().max()))


@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is glibc's")
def test_levels_one_cell_wide() -> None:
    """New memory is filled with bytes that make huge numbers, in a process of its own."""
    calls = "; ".join(f"check({height}, {width})" for height in (1, 2, 5) for width in (1, 2, 3))
    done = subprocess.run(
        [sys.executable, "-c", f"from test_bfloat16_gradients import check; {calls}"],
        env=child_environment(MALLOC_PERTURB_="128", OMP_NUM_THREADS="1"),
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
