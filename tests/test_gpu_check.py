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
=========     Saved host backtrace up to driver entry point at kernel launch time
=========     Host Frame: retinanet_fast::nms(at::Tensor const&) [0x1230] in _C.so
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
    monkeypatch.setattr(gpu_check, "find_tool", lambda name: str(tool))
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


def test_a_missing_tool_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "find_gpu", lambda: {"name": "a GPU"})
    monkeypatch.setattr(gpu_check, "find_tool", lambda name: None if name == "ninja" else f"/bin/{name}")
    assert gpu_check.main(["--only", "build"]) == 2
    assert capsys.readouterr().err == "gpu-check: there is no ninja here, and nothing was run\n"
    assert gpu_check.main(["--only", "build", "--dry-run"]) == 0
    assert "MISSING HERE: ninja." in capsys.readouterr().out


def test_what_a_stopped_benchmark_had_measured_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(name: str, command: list[str], limit: float, **more: str) -> tuple[int, str]:
        document = {"environment": {}, "rows": [{"workload": "w"}], "bars": []}
        (tmp_path / "benchmarks.json").write_text(json.dumps(document))
        return 124, ""

    monkeypatch.setattr(gpu_check, "RUNS", tmp_path)
    monkeypatch.setattr(gpu_check, "run", stopped)
    monkeypatch.setattr(gpu_check, "BENCHMARKS", ("^focal/", "^nms/"))
    result = gpu_check.benchmarks(60)
    assert result["rows"] == [{"workload": "w"}] * 2
    assert result["left_out"] == ["part of ^focal/", "part of ^nms/"]


def test_a_part_that_runs_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "RUNS", tmp_path)
    status, text = gpu_check.run("slow", ["sh", "-c", "echo begun; exec sleep 60"], limit=0.5)
    assert (status, text) == (124, "begun\n")
