"""The benchmark of a whole training step: what it compares and how it judges. No test here judges a time."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness import Plan, Timing
from benchmarks.training_step import bars, cli, contenders, program, rates, steps, trainer
from benchmarks.training_step.program import ProgramRun
from benchmarks.training_step.steps import StepRow, make_row
from benchmarks.training_step.works import WORKS, make_batch, our_model, torchvisions_model

CPU = torch.device("cpu")
R18, R50 = WORKS["r18-320x240"], WORKS["r50-512"]


# --- what a step computes


def test_flops_are_those_of_the_convolutions() -> None:
    """By hand for the first convolution: 7x7x3 to 64 channels at half the size, a multiply-add counted as two."""
    small = replace(R18, height=64, width=64, images=2)
    model = our_model(small)
    counted = rates.flops_of(model, small)
    larger = rates.flops_of(model, replace(small, images=6))
    assert (larger.forward, larger.step) == (3 * counted.forward, 3 * counted.step)
    # Backward has one product for each layer's weights and one for its input, which the images do not need.
    first = 2 * 7 * 7 * 3 * 64 * 32 * 32 * small.images
    assert counted.step == 3 * counted.forward - first


def test_both_models_train_the_same_layers_to_the_same_losses() -> None:
    pytest.importorskip("torchvision", reason="the model to compare with is torchvision's")
    small = R18.small()
    batch = make_batch(small, pinned=False)
    theirs = torchvisions_model(small)
    assert theirs is not None
    ours = our_model(small)
    trained = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (ours, theirs)]
    assert trained[0] == trained[1]
    found = list(contenders.contenders(ours, theirs, batch, CPU))
    assert [c.name() for c in found] == ["ours", "torchvision", "torchvision-channels_last"]
    steps.check_losses(found, batch, CPU)
    with torch.no_grad():
        theirs_last: Any = found[1].model.head
        theirs_last.classification_head.cls_logits.bias.add_(1)
    with pytest.raises(ValueError, match="torchvision: expected the classification loss"):
        steps.check_losses(found, batch, CPU)


def test_no_weight_moves_while_it_is_timed() -> None:
    """Every round computes the same, so rounds can be compared."""
    small = R18.small()
    batch = make_batch(small, pinned=False)
    (ours,) = contenders.contenders(our_model(small), None, batch, CPU)
    before = [p.detach().clone() for p in ours.model.parameters()]
    ours.training(batch, CPU, "bfloat16", fused=True)()
    for old, new in zip(before, ours.model.parameters(), strict=True):
        # lr 1e-9 times the gradient of untrained layers, which is below 1e3 here.
        torch.testing.assert_close(new.detach(), old, rtol=0, atol=1e-6)


def test_the_programs_step_has_the_losses_of_the_loop() -> None:
    small = R18.small()
    batch = make_batch(small, pinned=False)
    (ours,) = contenders.contenders(our_model(small), None, batch, CPU)
    expected = ours.training(batch, CPU, "float32", fused=True)()
    calls = dict(trainer.trainer_calls(ours.model, small, batch, CPU, "float32"))
    assert list(calls) == ["ours-program"]
    found = calls["ours-program"]()
    # Two losses, then whether they are not finite. The same kernels in the same order: rounding of 1e-9 steps alone.
    torch.testing.assert_close(found[:2], torch.stack(list(expected.values())).detach(), rtol=1e-5, atol=0)
    assert found[2] == 0


def test_rounds_are_in_turn() -> None:
    order: list[str] = []
    calls: dict[str, Any] = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = steps.in_turn(calls, 3, CPU)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"  # a warm-up, then three rounds
    assert timings["a"].plan == Plan(3, 1)


def test_a_contender_that_fails_is_left_out_unless_it_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise RuntimeError("no compiler\nhere")

    calls: dict[str, Any] = {"ours": lambda: None, "ours-program-compile": fails}
    assert list(steps.in_turn(calls, 1, CPU)) == ["ours"]
    assert "left out: ours-program-compile: RuntimeError: no compiler" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="no compiler"):
        steps.in_turn({"ours": fails}, 1, CPU)


# --- bars


def row(kind: str, precision: str, provider: str, seconds: float) -> StepRow:
    timing = Timing.of([seconds], Plan(1, 1))
    made = make_row(kind, R50, precision, provider, timing)
    made.images_per_s = R50.images / seconds
    return made


ROWS = [
    row("training", "float32", "ours", 2.0),
    row("training", "float32", "torchvision", 3.0),
    row("training", "float32", "torchvision-channels_last", 2.5),
    row("training", "float32", "torchvision-channels_last-fused", 2.2),
    row("training", "bfloat16", "ours", 1.0),
    row("training", "bfloat16", "ours-program-cuda_graph", 0.8),
    row("training", "bfloat16", "torchvision", 1.2),
    row("training", "bfloat16", "torchvision-fused", 1.01),
    row("evaluation", "bfloat16", "ours", 0.4),
]


def test_torchvisions_faster_memory_format_is_judged_and_its_fastest_row_shown() -> None:
    full, half = bars.step_verdicts(ROWS, "cpu")
    assert (full.verdict, full.value) == ("pass", 2.5)
    assert "2.2x its fastest" in full.bar
    assert (half.verdict, half.value) == ("pass", 1.2)
    assert "1.01x its fastest" in half.bar


def test_a_gpus_rate_and_evaluation_are_judged() -> None:
    times, rate, evaluation = bars.step_verdicts(ROWS, "cuda")
    assert (times.verdict, times.value) == ("miss", 1.2)  # 1.5 is asked for
    assert (rate.verdict, rate.value) == ("miss", 2.5)
    assert "(ours-program-cuda_graph)" in rate.bar
    assert (evaluation.verdict, evaluation.value) == ("pass", pytest.approx(2.0))


def test_without_torchvision_nothing_is_judged() -> None:
    verdicts = list(bars.step_verdicts([r for r in ROWS if r.provider.startswith("ours")], "cpu"))
    assert [v.verdict for v in verdicts] == ["not measured"] * 2


def test_the_programs_bars() -> None:
    times = {"data": 1.0, "copy": 0.5, "loss": 1.5, "forward": 30.0, "backward": 60.0, "optimizer": 7.0}
    alone = ProgramRun(0, 10.0, 20.0, 120.0, {**times, "evaluation": 50.0})  # which is no part of a step
    assert alone.shares["other"] == pytest.approx(20 / 120)
    share, kept = bars.program_verdicts([alone, ProgramRun(1, 4.5, None)])
    assert (share.verdict, share.value) == ("pass", pytest.approx(0.025))
    assert (kept.verdict, kept.value) == ("pass", pytest.approx(0.45))
    assert [v.verdict for v in bars.program_verdicts([ProgramRun(0, 10.0, None)])] == ["not measured"] * 2


# --- the program


def test_the_first_epoch_warms_up() -> None:
    records = [
        {"images_per_second": 1.0, "seconds": 10.0, "times": {"forward": 9.0}},
        {"images_per_second": 4.0, "seconds": 4.0, "times": {"forward": 2.0, "data": 1.0}},
        {"images_per_second": 6.0, "seconds": 2.0, "times": {"forward": 1.0}, "eval_images_per_second": 8.0},
    ]
    run = program.summary(records, busy=0)
    assert (run.images_per_s, run.eval_images_per_s) == (5.0, 8.0)
    assert (run.seconds, run.times) == (16.0, {"forward": 12.0, "data": 1.0})  # but its data counts


def test_the_program_chooses_its_threads_itself() -> None:
    kept = program.clean({"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "7", "HOME": "/home"})
    assert set(kept) == {"HOME", "PYTHONPATH"}


def test_runs_alone_and_beside_busy_processes_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "run_program", lambda job, out, busy: (out.name, busy))
    runs = list(program.alone_and_beside(program.Job(Path("data")), Path("out"), rounds=2))
    many = program.neighbours()
    assert many >= 1
    assert runs == [("0-0", 0), (f"0-{many}", many), ("1-0", 0), (f"1-{many}", many)]


def test_busy_processes_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "SETTLE_SECONDS", 0.0)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(program.subprocess, "Popen", start)

    def interrupted() -> None:
        with program.busy_processes(2):
            assert [process.poll() for process in started] == [None, None]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(process.poll() is not None for process in started)


def test_a_failing_programs_last_line_is_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--quick", "--parts", "program", "--data", str(tmp_path), "--json", str(tmp_path / "rows.json")]
    assert cli.main(words) == 1
    assert "training_step: retinanet-fast: " in capsys.readouterr().err


# --- the command line


def test_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.json"
    words = ["--quick", "--device", "cpu", "--parts", "steps,program", "--works", "r18-320x240"]
    words += ["--json", str(path)]
    assert cli.main(words) == 0
    result = json.loads(path.read_text())
    found = {row["workload"] for row in result["rows"] if row["provider"] == "ours"}
    trained = {row["workload"] for row in result["rows"] if row["provider"] == "ours-program"}
    assert trained == {f"training/r18-320x240/{precision}" for precision in contenders.PRECISIONS}
    assert found == {
        *(f"{kind}/r18-320x240/{p}" for kind in ("training", "evaluation") for p in contenders.PRECISIONS),
        "optimizer/r18-320x240/float32",
    }
    assert all(
        row["flops_per_s"] > 0 for row in result["rows"] if not row["workload"].startswith("optimizer")
    )
    assert [run["busy"] for run in result["program"]] == [0]
    assert result["program"][0]["eval_images_per_s"] > 0
    assert result["program"][0]["shares"]["loss"] > 0
    assert "on cpu, " in result["program"][0]["said"]
    assert result["bars"] == []
    printed = capsys.readouterr().out
    assert "training/r18-320x240/bfloat16" in printed
    assert "images/s, evaluation " in printed


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--parts", "steps,others"], "--parts: expected some of steps, program, neighbours, got 'others'"),
        (["--works", "r18"], "--works: expected some of r18-320x240"),
        (["--works", "r50-800", "--device", "cpu"], "on cpu, got 'r50-800'"),
    ],
)
def test_bad_requests_are_one_line(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.count("\n") == 1
