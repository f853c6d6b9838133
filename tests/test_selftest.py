"""``python -m retinanet_fast.selftest``: passes here, and fails where an op is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from retinanet_fast import ops, reference, selftest

CPU = torch.device("cpu")


def test_passes_and_prints_what_it_checked() -> None:
    words = [sys.executable, "-m", "retinanet_fast.selftest", "--device", "cpu"]
    # Not in the source folder, which may hold another environment's extension.
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("torch running") and line.endswith(torch.__version__) for line in lines)
    assert any(line.startswith("cpu level") for line in lines)
    for op in ops.__all__:
        (row,) = [line for line in lines if line.split()[:1] == [op]]
        assert len(row.split()) == 1 + len(selftest.TOLERANCE)
    assert lines[-1].startswith("all right")


def test_a_wrong_number_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        ops, "encode_boxes", lambda *arguments: reference.encode_boxes(*arguments) * (1 + 1e-3)
    )
    assert selftest.main(["--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "WRONG: encode_boxes on cpu in float64: differs from its twin by 0.001" in printed
    assert "encode_boxes on cpu in bfloat16" not in printed  # below its rounding
    assert printed.splitlines()[-1].startswith("FAILED")


def test_other_bits_on_the_second_run_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def once_more(*arguments: Tensor) -> Tensor:
        calls.append(arguments)
        return reference.encode_boxes(*arguments) * (1 + (len(calls) - 1) * 1e-7)

    monkeypatch.setattr(ops, "encode_boxes", once_more)
    assert selftest.check("encode_boxes", CPU, torch.float32).problem == "not the same bits on the second run"


def test_an_exception_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Tensor) -> Tensor:
        raise RuntimeError("box_iou: this build has no kernels\nof that kind")

    monkeypatch.setattr(ops, "box_iou", refuse)
    found = selftest.check("box_iou", CPU, torch.float32)
    assert found.problem == "RuntimeError: box_iou: this build has no kernels"
    assert found.verdict == "WRONG"


def test_an_op_that_accepts_a_wrong_label_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "sigmoid_focal_loss", lambda inputs, targets: inputs)
    assert selftest.check_error(CPU) == "a label outside the classes is no error"


def test_numbers_that_cannot_be_compared_are_far_apart() -> None:
    one = torch.ones(2)
    assert selftest.distance(one, one.clone()) == 0.0
    assert selftest.distance(one, torch.ones(3)) == float("inf")
    assert selftest.distance(one, one.double()) == float("inf")
    assert selftest.distance(torch.tensor([1.0, torch.nan]), one) == float("inf")
    assert selftest.distance(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 4.0])) == 0.25
