"""Scoring beside training: the same numbers, files and weights as in place, whatever becomes of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from children import HERE, child_environment
from tiny_run import beside_recipe, finding_model, render, tiny_recipe, tiny_run

from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.errors import InputError, Stopped
from retinanet_fast.engine.evaluation.results import load_detected, save_detected
from retinanet_fast.engine.reporting.hooks import reporting_hooks
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training import score_process, scoring
from retinanet_fast.engine.training.hooks import Hook, StepReport
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.train import saved_record, train

MEASURED = ("seconds", "images_per_second", "eval_images_per_second", "times", "memory_bytes")
# In the place of ``score_process.START``: a process that does not come to an end, and one that fails.
ENDLESS = "import time; time.sleep(600)"
FAILING = "raise ValueError('no cores left')"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("rendered"))


@pytest.fixture(scope="module")
def in_place(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others are to equal."""
    out = tmp_path_factory.mktemp("in-place") / "run"
    go(data, out, score_beside=False)
    last, best = checkpoints.load(out), checkpoints.load(out / checkpoints.BEST)
    assert (last.epoch, best.epoch) == (4, 3)
    return out


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine has to do."""
    monkeypatch.setattr(score_process, "NICE", 0)


class Started:
    """The processes that were started, by their numbers, and whether each is waited for at once, so that its numbers
    come in the midst of the next epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at_once: bool = False) -> None:
        self.pids: list[int] = []
        started = self

        class Watched(score_process.ScoreProcess):
            def __init__(self, job: Any) -> None:
                super().__init__(job)
                started.pids.append(self.pid)
                started.folder = self.folder
                if at_once:
                    self._process.wait()

        monkeypatch.setattr(scoring, "ScoreProcess", Watched)

    folder: Path


def go(data: Path, out: Path, hooks: bool = True, more: tuple[Hook, ...] = (), **values: Any) -> Run:
    """Begin or go on with the run in ``out``."""
    run = tiny_run(data, out, beside_recipe(**values))
    folder = RunFolder(out)
    begun = folder.last.is_file()
    if begun:
        run.record = saved_record(out)
    said: list[str] = []
    run.say = said.append
    train(
        run,
        resume=begun,
        model=finding_model(),
        hooks=[*(reporting_hooks(folder, False) if hooks else ()), *more],
    )
    (out / "said.txt").write_text("\n".join(said))
    return run


def assert_same(found: Path, expected: Path, pictures: bool = True) -> None:
    """Records in their order of values, weights, and which files there are."""
    for name in ("last.pt", "best.pt"):
        a, b = checkpoints.load(found / name), checkpoints.load(expected / name)
        assert a.epoch == b.epoch
        assert a.weights.keys() == b.weights.keys()
        assert all(torch.equal(a.weights[key], b.weights[key]) for key in a.weights), name
        for one, two in zip(a.history, b.history, strict=True):
            assert list(one) == list(two)
            assert {k: str(v) for k, v in one.items() if k not in MEASURED} == {
                k: str(v) for k, v in two.items() if k not in MEASURED
            }
    a, b = (load_detected(RunFolder(out).detections) for out in (found, expected))
    assert a.results.to_list() == b.results.to_list()
    if pictures:
        assert files(found) == files(expected)


def files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def losses_and_numbers(out: Path) -> list[str]:
    return [line for line in (out / "said.txt").read_text().splitlines() if line.startswith("epoch")]


@pytest.mark.parametrize("at_once", [False, True])
def test_beside_is_as_in_place(
    data: Path, in_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    started = Started(monkeypatch, at_once)
    out = tmp_path / "run"
    steps: list[tuple[int, int]] = []

    class Watch(Hook):
        def after_save(self, run: Run) -> None:
            steps.append((run.state.step, len(run.history)))

    go(data, out, more=(Watch(),))
    assert len(started.pids) == 3
    assert_same(out, in_place)
    assert losses_and_numbers(out) == losses_and_numbers(in_place)
    columns, expected = (
        RunFolder(folder).metrics_table.read_text().split("\n", 1)[0].split(",") for folder in (out, in_place)
    )
    # The pictures are drawn elsewhere, but for the last epoch's, which count to no record.
    assert columns == [name for name in expected if name != "times.pictures"]
    # The first epoch has six steps; its numbers come at the first step of the second, or before the second's are due.
    assert (7 if at_once else 12, 1) in steps
    page = RunFolder(out).page.read_text()
    assert "run: epoch 4 of 4" in page
    assert not started.folder.exists()


def test_the_page_of_an_epoch_is_drawn_by_the_process(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Started(monkeypatch, at_once=True)

    class Leave(Hook):
        def after_step(self, run: Run, report: StepReport) -> None:
            if run.drawn == 2:
                raise RuntimeError("seen enough")

    with pytest.raises(RuntimeError, match="seen enough"):
        go(data, tmp_path / "run", more=(Leave(),))
    folder = RunFolder(tmp_path / "run")
    assert "run: epoch 2 of 4" in folder.page.read_text()
    assert f"{torch.get_num_threads()} threads" in folder.page.read_text()  # the run's, not the process's
    assert folder.loss_plot.is_file()
    assert folder.sample(2).is_file()
    assert len(folder.metrics.read_text().splitlines()) == 2


@pytest.mark.parametrize("how", ["does not start", "fails", "is killed", "is not done"])
def test_what_a_process_does_not_do_is_done_in_place_and_told(
    data: Path, in_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(score_process, "START", FAILING if how == "fails" else ENDLESS)
    monkeypatch.setattr(scoring, "MOST_WAITED", 0.2)
    started = Started(monkeypatch)
    if how == "does not start":
        monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))

    class Kill(Hook):
        def after_step(self, run: Run, report: StepReport) -> None:
            if how == "is killed" and report.step % 6 == 1 and report.step > 1:
                os.kill(started.pids[-1], signal.SIGKILL)

    out = tmp_path / "run"
    go(data, out, more=(Kill(),))
    assert_same(out, in_place)
    told = {
        "does not start": "no process can be started ([Errno 2] No such file or directory: "
        f"'{tmp_path / 'no-python'}')",
        "fails": "the process that scored it has failed (ValueError: no cores left)",
        "is killed": "the process that scored it has failed (killed by signal 9)",
        "is not done": "the process that scores it is not done after 0 s of waiting",
    }
    assert f"epoch 2: {told[how]}: scored in place" in (out / "said.txt").read_text()
    for pid in started.pids:
        assert_gone(pid)


@pytest.mark.parametrize("step", [8, 12])
def test_a_stop_ends_the_process_and_a_resume_scores_the_epoch(
    data: Path, in_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """In the midst of an epoch, and at its end, where the numbers are waited for."""
    out = tmp_path / "run"

    class Stop(Hook):
        def after_step(self, run: Run, report: StepReport) -> None:
            if report.step == step:
                signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(score_process, "START", ENDLESS)
        started = Started(patch)
        with pytest.raises(Stopped) as stopped:
            go(data, out, hooks=False, more=(Stop(),))
    assert stopped.value.signal_number == signal.SIGTERM
    assert len(started.pids) == 1
    assert_gone(started.pids[0])
    assert not started.folder.exists()
    saved = checkpoints.load(out)
    assert saved.progress is not None
    assert saved.progress.unscored is not None
    assert (saved.progress.unscored["epoch"], saved.epoch, len(saved.history)) == (1, 1, 0)
    assert RunFolder(out).unscored.is_file()
    go(data, out, hooks=False)
    assert_same(out, in_place, pictures=False)


def test_a_resume_without_it_scores_in_place_at_once(
    data: Path, in_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    leave_unscored(data, out, monkeypatch)
    started = Started(monkeypatch)
    go(data, out, hooks=False, score_beside=False)
    assert started.pids == []
    assert_same(out, in_place, pictures=False)


def test_a_run_that_ends_with_its_unscored_epoch_scores_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    leave_unscored(data, out, monkeypatch)
    run = go(data, out, hooks=False, epochs=1)
    assert run.evaluation is not None
    assert [record["AP"] for record in run.history] == [run.evaluation.numbers["AP"]]
    assert checkpoints.load(out / checkpoints.BEST).history[0]["AP"] == run.evaluation.numbers["AP"]
    assert not RunFolder(out).unscored.exists()


@pytest.mark.parametrize("what", ["gone", "another epoch's"])
def test_an_epoch_without_its_detections_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    out = tmp_path / "run"
    leave_unscored(data, out, monkeypatch)
    file = RunFolder(out).detections
    if what == "gone":
        file.unlink()
    else:
        found = load_detected(file)
        found.epoch = 3
        save_detected(file, found)
    with pytest.raises(
        InputError, match=r"detections\.npz: (no such file|expected the detections of epoch 1)"
    ):
        go(data, out)


def test_epochs_without_evaluation(data: Path, tmp_path: Path) -> None:
    values = {"eval_every": 2, "epochs": 5, "keep_checkpoints": 2}
    for name, beside in (("in place", False), ("beside", True)):
        go(data, tmp_path / name, hooks=False, score_beside=beside, **values)
    assert_same(tmp_path / "beside", tmp_path / "in place")
    for kept, other in zip(
        *(RunFolder(tmp_path / name).kept_checkpoints() for name in ("beside", "in place")), strict=True
    ):
        one, two = checkpoints.load(kept), checkpoints.load(other)
        assert one.progress is not None
        assert one.progress.unscored is None
        assert [str(record.get("AP")) for record in one.history] == [
            str(record.get("AP")) for record in two.history
        ]
    records = checkpoints.load(tmp_path / "beside").history
    assert ["AP" in record for record in records] == [False, True, False, True, True]


def test_the_process_ends_when_the_run_is_killed(data: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(HERE / "beside_process.py"), str(data), str(tmp_path / "run")]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env=child_environment(), cwd=HERE
    ) as main_process:
        assert main_process.stdout is not None
        pid, folder = main_process.stdout.readline().split()
        assert Path(folder).is_dir()
        main_process.kill()
    assert_gone(int(pid))
    assert not Path(folder).exists()


def test_it_is_off_unless_asked_for() -> None:
    assert not tiny_recipe().score_beside


def leave_unscored(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped with its first epoch unscored."""

    class Stop(Hook):
        def after_step(self, run: Run, report: StepReport) -> None:
            if report.step == 8:
                signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(score_process, "START", ENDLESS)
        with pytest.raises(Stopped):
            go(data, out, hooks=False, more=(Stop(),))
    saved = checkpoints.load(out).progress
    assert saved is not None
    assert saved.unscored is not None


def assert_gone(pid: int, seconds: float = 60) -> None:
    """It looks once a second for its run; the rest is for a machine that has much else to do."""
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} is still there")
