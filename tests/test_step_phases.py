"""Where a step's time goes, as an epoch's record has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run import render, tiny_model, tiny_recipe, tiny_run

from retinanet_fast.engine.training.train import train

OF_A_STEP = {"data", "forward", "loss", "backward", "optimizer"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("data"), train=5, val=1)


def test_an_epochs_record_has_the_phases_of_its_steps(data: Path, tmp_path: Path) -> None:
    run = tiny_run(data, tmp_path / "run", tiny_recipe(epochs=1))
    model = tiny_model()
    train(run, model=model)
    (record,) = run.history
    times = record["times"]
    assert times.keys() >= OF_A_STEP
    assert all(seconds > 0 for seconds in times.values())
    # No second is counted twice.
    assert sum(times[phase] for phase in OF_A_STEP) <= record["seconds"]
    assert "compute_loss" not in vars(model)  # nothing of the clock stays in the model


def test_a_models_own_way_to_its_loss_is_kept(data: Path, tmp_path: Path) -> None:
    model, called = tiny_model(), []
    usual = model.compute_loss

    def own(*arguments: Any) -> Any:
        called.append(len(arguments))
        return usual(*arguments)

    model.compute_loss = own  # type: ignore[method-assign]
    run = tiny_run(data, tmp_path / "run", tiny_recipe(epochs=1))
    train(run, model=model)
    assert len(called) == run.steps_per_epoch
    assert vars(model)["compute_loss"] is own
    assert run.history[0]["times"]["loss"] > 0
