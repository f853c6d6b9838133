"""The benchmark program: what it measures, what it checks, what it writes. No test here judges a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import data_sets
import pytest
import torch

from benchmarks import cli, harness, report, training_run
from benchmarks.bars import BARS, copies, extra_memory, faster, judge, reads
from benchmarks.harness import Harness, Plan, Timing
from benchmarks.inputs import anchor_grid
from benchmarks.providers import PROVIDERS, Provider
from benchmarks.runner import AGREES, TWIN, Row, Runner
from benchmarks.workload import REGISTRY, Case, Setting, Workload, difference

CPU = torch.device("cpu")
QUICK = Setting(CPU, quick=True)
OPS = [w for w in REGISTRY.values() if "cpu" in w.devices and "eager" in w.providers]


def make_row(workload: str, provider: str, **values: Any) -> Row:
    return Row(workload, provider, "shape", check=AGREES, **values)


# --- the training run


def test_training_run_on_real_images_follows_the_eager_loss(tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        'arch = "resnet18"\nfpn_channels = 32\nmin_size = [96]\nmax_size = 128\nbatch_size = 2\n'
        'optimizer = "sgd"\nlr = 0.01\nanchor_sizes = [8, 16, 32, 64, 128]\nworkers = 0\n'
    )
    out = {"--json": tmp_path / "run.json", "--chart": tmp_path / "run.png"}
    command = ["--data", str(data_sets.real("bccd")), "--recipe", str(recipe), "--steps", "4"]
    code = training_run.main([*command, *(str(part) for pair in out.items() for part in pair)])
    result = json.loads(out["--json"].read_text())
    losses = {name: run["losses"] for name, run in result["runs"].items()}
    assert code == 0
    assert out["--chart"].stat().st_size > 0
    assert [len(curve) for curve in losses.values()] == [4, 4, 4]
    # The same weights and batch: only the sum's rounding differs at first.
    assert losses["fused"][0] == pytest.approx(losses["eager"][0], rel=1e-5)
    assert losses["fused"] != losses["eager, other rounding"]


# --- harness


def test_timing_takes_median_and_percentiles() -> None:
    timing = Timing.of([5.0, 1.0, 3.0, 2.0, 4.0, 6.0], Plan(6, 1))
    assert (timing.median, timing.p20, timing.p80) == (3.5, 2.0, 5.0)


def test_timing_of_one_sample() -> None:
    timing = Timing.of([2.0], Plan(1, 1))
    assert (timing.p20, timing.median, timing.p80) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (10e-6, Plan(500, 20)),  # repeated up to 0.2 ms per sample, and no more rounds than 500
        (10e-3, Plan(100, 1)),  # the budget of a second holds 100
        (0.5, Plan(7, 1)),  # never fewer than 7
        (20.0, Plan(3, 1)),  # but 3 for a call this slow
    ],
)
def test_plan_fits_the_budget(seconds: float, expected: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Harness, "_sample", lambda *_: seconds)
    assert Harness(CPU, budget=1.0).plan(lambda: None) == expected


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    mib = 1 << 20

    def call() -> torch.Tensor:
        first = torch.ones(16 * mib, dtype=torch.uint8)
        del first
        second = torch.ones(8 * mib, dtype=torch.uint8)
        third = torch.ones(12 * mib, dtype=torch.uint8)
        del third
        return second

    call()
    memory = Harness(CPU).memory(call)
    assert memory.peak == 20 * mib
    if memory.resident is not None:  # at most malloc kept all 36 MiB; the kernel counts late by some pages
        assert 19 * mib < memory.resident < 37 * mib


def test_rounds_in_turn_change_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    monkeypatch.setattr(Harness, "plan", lambda self, call: Plan(3 if call is calls[0] else 5, 1))
    first, second = Harness(CPU).time_in_turn(calls)
    assert order == ["a", "b", "b", "a", "a", "b"]  # as many rounds as the slowest has
    assert first.plan == second.plan == Plan(3, 1)


def test_copy_is_measured_once_a_size() -> None:
    measured = Harness(CPU, budget=0.001)
    first = measured.copy_seconds(1 << 20)
    assert first > 0
    assert measured.copy_seconds(1 << 20) == first
    assert measured.copy_seconds(1 << 22) != first


# --- checks


def blank_case(**values: Any) -> Case:
    return Case(op="nms", args=(), shape="", bytes_moved=1, **values)


@pytest.mark.parametrize(
    ("got", "agrees"),
    [
        ([1.0, 2.0], True),
        ([1.0, 2.0 + 1e-5], True),
        ([1.0, 2.1], False),
        ([1.0, float("nan")], False),
        ([1.0], False),
    ],
)
def test_floats_agree_within_the_tolerance(got: list[float], agrees: bool) -> None:
    assert (difference(blank_case(), torch.tensor(got), torch.tensor([1.0, 2.0])) is None) == agrees


def test_indices_must_be_equal_but_for_a_peers_ties() -> None:
    want, got = torch.arange(100), torch.arange(100)
    got[7] = 8
    assert "1.00% of the values differ" in (difference(blank_case(), got, want) or "")
    case = blank_case(peer_rows=0.98)
    assert difference(case, got, want) is not None
    assert difference(case, got, want, peer=True) is None


def test_dictionaries_compare_by_key() -> None:
    one, two = torch.ones(1), torch.zeros(1)
    assert difference(blank_case(), {"a": one, "b": two}, {"b": two, "a": one}) is None
    assert difference(blank_case(), {"a": two, "b": one}, {"b": two, "a": one}) is not None


@pytest.mark.parametrize(("size", "count"), [(800, 120_087), (512, 49_104)])
def test_anchor_count(size: int, count: int) -> None:
    grid = anchor_grid(size, CPU)
    assert grid.num_anchors == len(grid.boxes()) == count


# --- workloads


@pytest.mark.parametrize("workload", OPS, ids=lambda workload: workload.name)
def test_every_workload_runs_and_providers_agree(workload: Workload) -> None:
    """Compiled providers are left to the benchmark itself: they are the same functions."""
    case = workload.make(QUICK)
    assert case.bytes_moved > 0
    expected = PROVIDERS["eager"].bind(case)()
    compared = 0
    for name in ("ours", "torchvision"):
        try:
            call = PROVIDERS[name].bind(case) if name in workload.providers else None
        except Exception as missing:
            if type(missing).__name__ != "Unavailable":
                raise
            continue
        if call is not None:
            compared += 1
            assert difference(case, call(), expected, peer=name == "torchvision") is None
    if compared == 0:
        pytest.skip("neither the built extension nor torchvision has this op here")


def test_gradients_reach_every_leaf() -> None:
    case = REGISTRY["retinanet_loss/2x512"].make(QUICK)
    _, *gradients = PROVIDERS["eager"].bind(case)()
    assert [g.shape for g in gradients] == [leaf.shape for leaf in case.leaves]
    assert case.gradient_bytes == sum(4 * leaf.numel() for leaf in case.leaves)


# --- runner


@pytest.fixture
def fake_op(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """A workload `double` of three providers: the twin, one that is wrong, one that raises."""

    def fails(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("first line\nsecond line")

    functions = {"eager": lambda x: 2 * x, "ours": lambda x: 2 * x + 1, "torchvision": fails}
    for name, function in functions.items():
        module = ModuleType(f"fake_{name}")
        module.double = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(PROVIDERS, name, Provider(name, module.__name__))
    monkeypatch.setitem(PROVIDERS, "compile", Provider("compile", "no_such_module"))
    monkeypatch.setattr(harness, "WARM_UP_SECONDS", 0.0)
    return Runner(Harness(CPU, budget=0.001), QUICK, {}, tuple(PROVIDERS))


@pytest.mark.parametrize("in_turn", [False, True])
def test_runner_reports_wrong_failing_and_missing_providers(fake_op: Runner, in_turn: bool) -> None:
    case = Case(op="double", args=(torch.ones(4),), shape="4", bytes_moved=32, in_turn=in_turn)
    workload = Workload("double", lambda _: case, ("ours", "eager", "compile", "torchvision"))
    rows = {row.provider: row for row in fake_op.run(workload)}
    assert set(rows) == {"ours", "eager", "torchvision"}  # compile could not be imported
    assert "100.00% of the values differ" in rows["ours"].check
    assert rows["ours"].wrong
    assert rows["eager"].check == TWIN
    assert rows["eager"].median is not None
    assert rows["torchvision"].error == "RuntimeError: first line"
    assert "DIFFERS FROM THE TWIN" in report.table_block(list(rows.values()), [])
    assert "FAILED: RuntimeError: first line" in report.table_block(list(rows.values()), [])


def test_a_call_that_fails_while_it_is_timed_in_turn_is_a_result(fake_op: Runner) -> None:
    calls: list[int] = []

    def fails_later() -> torch.Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("out of memory")
        return torch.ones(1)

    case = blank_case(calls={name: fails_later for name in ("ours", "eager")}, checked=False, in_turn=True)
    rows = list(fake_op.run(Workload("w", lambda _: case, ("ours", "eager"))))
    assert [row.error for row in rows] == ["RuntimeError: out of memory"] * 2


# --- bars


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bars_name_rows_that_are_measured(device: str) -> None:
    """Each bar asks a stand-in for its rows; the registry must have all of them."""
    asked: set[tuple[str, str]] = set()
    rows = SimpleNamespace(get=lambda key: asked.add(key))
    for bar in BARS[device]:
        assert bar.measure(rows) is None  # type: ignore[arg-type]
    for workload, provider in asked:
        assert provider in REGISTRY[workload].providers
        assert device in REGISTRY[workload].devices


def test_bars_are_judged() -> None:
    rows = {
        ("w", "ours"): make_row(
            "w", "ours", median=2.0, logits_copy_seconds=1.0, logits_bytes=100, extra_bytes=5, bytes_moved=1
        ),
        ("w", "torchvision"): make_row("w", "torchvision", median=30.0),
    }
    outcomes = {
        faster("w", "torchvision", 15): ("pass", 15.0),
        faster("w", "torchvision", 16): ("miss", 15.0),
        faster("w", "compile", 2): ("not measured", None),
        copies("w", 2.0): ("pass", 2.0),
        reads("w", 3.9): ("miss", 4.0),
        extra_memory("w", 0.05): ("pass", 0.05),
    }
    for bar, (outcome, value) in outcomes.items():
        verdict = judge(bar, rows)
        assert (verdict.verdict, verdict.value) == (outcome, value), bar.text


def test_a_wrong_row_passes_no_bar() -> None:
    rows = {
        ("w", "ours"): make_row("w", "ours", median=1.0),
        ("w", "torchvision"): Row("w", "torchvision", "", check="50% of the values differ", median=100.0),
    }
    assert judge(faster("w", "torchvision", 2), rows).verdict == "not measured"


# --- program


def test_list_prints_every_workload(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*REGISTRY, *PROVIDERS])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--filter", "("], "not a regular expression"),
        (["--filter", "no such workload"], "no workload for cpu"),
        (["--providers", "ours,apex"], "'apex'"),
        (["--threads", "0"], "--threads"),
        (["--json", "."], "is a folder"),
        (["--budget-per-row", "0"], "--budget-per-row: expected more than 0"),
        (["--seconds", "-1"], "--seconds: expected more than 0"),
    ],
)
def test_bad_requests_are_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--device", "cpu", *arguments]) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.count("\n") == 1


def test_program_writes_rows_with_their_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new folder" / "rows.json"
    arguments = ["--quick", "--device", "cpu", "--filter", "^tiny/box_iou$", "--providers", "eager"]
    chart = tmp_path / "chart.png"
    assert cli.main([*arguments, "--json", str(path), "--chart", str(chart)]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["workload"], row["provider"], row["check"]) == ("tiny/box_iou", "eager", TWIN)
    assert 0 < row["p20"] <= row["median"] <= row["p80"]
    assert row["environment"]["torch"] == torch.__version__
    assert row["environment"]["threads"] == torch.get_num_threads()
    assert {"python", "commit", "device", "build", "torchvision"} <= set(row["environment"])
    assert row["command"].startswith("python -m benchmarks --device cpu --filter")
    printed = capsys.readouterr().out
    assert "$ " + row["command"].removesuffix(" --providers eager") in printed
    assert "no chart: " in printed  # there is nothing to compare with
    assert not chart.exists()
    assert list(path.parent.iterdir()) == [path]  # no temporary file left


def test_growth_runs_only_when_asked_for() -> None:
    def names(pattern: str | None, growth: bool) -> list[str]:
        return [w.name for w in cli.choose_workloads(CPU, pattern and [pattern], growth=growth)]

    assert not any(name.startswith("growth/") for name in names(None, False))
    assert any(name.startswith("growth/") for name in names(None, True))
    assert names("growth/nms", False)


def test_the_first_filters_workloads_come_first() -> None:
    names = [
        w.name
        for w in cli.choose_workloads(CPU, ["^tiny/nms$", "^(focal/int/fp32/sum|tiny/.*)$"], growth=False)
    ]
    assert names[:2] == ["tiny/nms", "focal/int/fp32/sum"]
    assert names.count("tiny/nms") == 1


def test_a_run_of_limited_time_begins_no_further_workload(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    words = [
        "--quick",
        "--device",
        "cpu",
        "--filter",
        "^tiny/box_iou$",
        "--filter",
        "^tiny/",
        "--providers",
        "eager",
    ]
    files = ["--json", str(path), "--chart", str(tmp_path / "chart.png")]
    limits = ["--seconds", "1e-6", "--budget-per-row", "0.001"]
    assert cli.main([*words, *files, *limits]) == 0
    assert json.loads(path.read_text())["rows"] == []
    assert "out of time: left out tiny/box_iou, tiny/focal," in capsys.readouterr().out


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.json"
    path.write_text("before")

    def no_replace(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(report.os, "replace", no_replace)
    with pytest.raises(OSError, match="disk full"):
        report.write_json(path, [], [], {})
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_chart_shows_speed_ups_and_growth(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="charts need matplotlib")
    environment = {"device": "CPU", "threads": 2, "torch": "2", "commit": "c"}
    rows = [
        make_row(name, provider, median=seconds, environment=environment)
        for name in ("nms/uniform/1000", "growth/nms/boxes/1000", "growth/nms/boxes/2000")
        for provider, seconds in (("ours", 0.001), ("torchvision", 0.01))
    ]
    path = tmp_path / "chart.png"
    report.write_chart(path, rows)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing was measured"):
        report.write_chart(path, [])
