"""`make gpu-check`, as far as it goes without a GPU: its one line, the parsing, a pass with a stand-in sanitizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check

MEMCHECK = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at void retinanet_fast::<unnamed>::gather_kernel<float>(T1)+0x90
=========     by thread (32,0,0) in block (1,0,0)
=========
========= Invalid __global__ read of size 8 bytes
=========     at void at::native::elementwise_kernel<(int)128>(int)+0x10
=========     by thread (0,0,0) in block (0,0,0)
=========
3 cases on cuda: float32
========= ERROR SUMMARY: 2 errors
"""


def test_reports_of_our_kernels_are_told_from_those_of_torch() -> None:
    assert gpu_check.sanitizer_errors(MEMCHECK) == (2, 1)
    assert gpu_check.sanitizer_errors("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n") == (
        0,
        0,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "no GPU" in captured.err


def test_a_dry_run_names_every_part_and_they_fit_in_ten_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--dry-run"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == list(gpu_check.PARTS)
    assert sum(gpu_check.LIMITS.values()) <= 600


@pytest.mark.parametrize(("report", "ok"), [("", True), (MEMCHECK, False), ("crashed", False)])
def test_the_sanitizers_verdict(
    report: str, ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for compute-sanitizer that prints `report`."""
    tool = tmp_path / "compute-sanitizer"
    last = "" if report == "crashed" else "3 cases on cuda: float32\n"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{report.replace(last, '') if last else report}{last}END\n")
    tool.chmod(0o755)
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: str(tool))
    monkeypatch.setattr(gpu_check, "find_gpu", lambda: {"name": "a GPU"})
    monkeypatch.setattr(gpu_check, "RUNS", tmp_path / "runs")
    document = tmp_path / "check.json"
    assert gpu_check.main(["--only", "sanitizers", "--json", str(document)]) == int(not ok)
    written = json.loads(document.read_text())
    assert written["gpu"] == {"name": "a GPU"}
    assert set(written["versions"]) >= {"python", "torch", "cuda", "nvcc", "commit"}
    results = written["parts"]["sanitizers"]
    assert [name for name in results if name in gpu_check.SANITIZERS] == list(gpu_check.SANITIZERS)
    assert all(results[name]["ok"] == ok for name in gpu_check.SANITIZERS)


def test_a_part_that_runs_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "RUNS", tmp_path)
    status, text = gpu_check.run("slow", ["sh", "-c", "echo begun; exec sleep 60"], limit=0.5)
    assert (status, text) == (124, "begun\n")
