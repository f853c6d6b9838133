"""What may change when a run is resumed, and what may not."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from tiny_run import render, tiny_model, tiny_recipe, tiny_run

from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.errors import InputError, Stopped
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.hooks import Hook, StepReport
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.train import saved_record, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("rendered"))


class StopAt(Hook):
    """Asks the program to stop, as the system does, when a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, run: Run, report: StepReport) -> None:
        if report.step == self.step:
            signal.raise_signal(signal.SIGTERM)


def stop_at(step: int, data: Path, out: Path) -> None:
    with pytest.raises(Stopped) as stopped:
        train(tiny_run(data, out, tiny_recipe()), model=tiny_model(), hooks=[StopAt(step)])
    assert stopped.value.signal_number == signal.SIGTERM


def test_a_stop_is_heeded_at_the_next_step(data: Path, tmp_path: Path) -> None:
    stop_at(8, data, tmp_path)
    saved = checkpoints.load(tmp_path)
    assert saved.progress is not None
    assert (saved.progress.step, saved.epoch, len(saved.progress.epoch_losses)) == (9, 1, 3)


def test_another_batch_size_within_an_epoch_is_refused(data: Path, tmp_path: Path) -> None:
    stop_at(8, data, tmp_path)
    with pytest.raises(InputError, match="within an epoch of 6 steps, which are 3 now"):
        train(tiny_run(data, tmp_path, tiny_recipe(batch_size=8)), resume=True, model=tiny_model())


def test_at_the_end_of_an_epoch_batch_size_and_epochs_may_change(data: Path, tmp_path: Path) -> None:
    train(tiny_run(data, tmp_path, tiny_recipe(epochs=1)), model=tiny_model())
    run = tiny_run(data, tmp_path, tiny_recipe(epochs=2, batch_size=8))
    run.record = saved_record(tmp_path)
    train(run, resume=True, model=tiny_model())
    assert [record["iterations"] for record in run.history] == [6, 6]
    record = RunFolder(tmp_path).read()
    assert [start.step for start in record.starts] == [0, 3]
    assert (record.recipe.epochs, record.recipe.batch_size) == (2, 8)


def test_the_best_weights_are_the_averaged_ones(data: Path, tmp_path: Path) -> None:
    train(tiny_run(data, tmp_path, tiny_recipe(epochs=1)), model=tiny_model())
    last, best = checkpoints.load(tmp_path), checkpoints.load(tmp_path / checkpoints.BEST)
    assert best.optimizer == {}
    assert all(torch.equal(best.model[name], last.ema[name]) for name in last.ema)
    assert any(not torch.equal(last.model[name], last.ema[name]) for name in last.ema)
    assert last.weights is last.ema


def test_a_new_run_in_the_folder_of_another_keeps_it_until_its_first_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    train(tiny_run(data, tmp_path, tiny_recipe(epochs=1)), model=tiny_model())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    class Broken(Hook):
        def after_step(self, run: Run, report: StepReport) -> None:
            raise RuntimeError("before the first checkpoint")

    with pytest.raises(RuntimeError, match="before the first"):
        train(tiny_run(data, tmp_path, tiny_recipe(epochs=1)), model=tiny_model(), hooks=[Broken()])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
