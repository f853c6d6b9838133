"""`python -m benchmarks.gpu_check.smoke`: one call of every op on the GPU, forward and backward, against the CPU."""

from __future__ import annotations

import sys

import torch

from benchmarks.gpu_check.machine import ROOT

TOLERANCE = 1e-4  # of a tensor's largest value, in float32; indices are equal


def one_case_per_op(names: list[str]) -> dict[str, str]:
    """The last of each op's, which are not the empty ones."""
    return {name.split("-")[0]: name for name in names if not name.endswith("empty")}


def difference(got: list[torch.Tensor], want: list[torch.Tensor]) -> str:
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        a = a.cpu()
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"result {index} is {a.dtype}{list(a.shape)}, expected {b.dtype}{list(b.shape)}"
        if not b.is_floating_point():
            if not torch.equal(a, b):
                return f"result {index}: {int((a != b).sum())} of {b.numel()} indices differ"
        elif b.numel() and not (a - b).abs().max() <= TOLERANCE * b.abs().max().clamp(min=1e-30):
            return f"result {index} differs by {(a - b).abs().max():.2g}, its largest value is {b.abs().max():.2g}"
    return "ok"


def main(device: str = "cuda") -> int:
    sys.path.insert(0, str(ROOT / "tests"))
    from kernel_cases import CASES, has_op

    failed = 0
    for op, name in one_case_per_op([name for name in CASES if has_op(name)]).items():
        try:
            results = CASES[name](device, torch.float32)
            verdict = difference(results, CASES[name]("cpu", torch.float32))
        except Exception as error:  # the next op may work
            verdict = (
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            )
        failed += verdict != "ok"
        print(f"smoke {op}: {verdict}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
