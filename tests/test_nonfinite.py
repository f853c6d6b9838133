"""A step whose loss is not finite changes nothing, says where it began, and the run stops or goes on as it was told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from tiny_run import render, tiny_model, tiny_recipe, tiny_run
from torch import Tensor, nn

from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.errors import TrainingError
from retinanet_fast.engine.training.hooks import Hook, StepReport
from retinanet_fast.engine.training.nonfinite import explain
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.step import TrainStep, detector_losses
from retinanet_fast.engine.training.train import make_state, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("rendered"))


def bad_at(*steps: int) -> Callable[[nn.Module, Batch], Mapping[str, Tensor]]:
    """The detector's losses, but NaN in the given steps, which count from 1."""
    done = 0

    def losses(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        nonlocal done
        done += 1
        factor = torch.nan if done in steps else 1.0
        return {name: loss * factor for name, loss in detector_losses(model, batch).items()}

    return losses


class Watch(Hook):
    """Every tensor of the model after each step."""

    def __init__(self) -> None:
        self.reports: list[StepReport] = []
        self.states: list[dict[str, Tensor]] = []

    def after_step(self, run: Run, report: StepReport) -> None:
        self.reports.append(report)
        self.states.append({name: tensor.clone() for name, tensor in run.state.model.state_dict().items()})


def test_stop_leaves_the_state_from_before(data: Path, tmp_path: Path) -> None:
    run, watch = tiny_run(data, tmp_path, tiny_recipe()), Watch()
    with pytest.raises(TrainingError, match=r"epoch 1, step 4: the loss is not finite .*classification nan"):
        train(run, model=tiny_model(), losses=bad_at(4), hooks=[watch])
    saved = checkpoints.load(tmp_path)
    assert saved.progress is not None
    assert saved.progress.step == 3
    assert len(saved.progress.epoch_losses) == 3
    for name, tensor in watch.states[2].items():
        if tensor.is_floating_point():  # batch norm counts its batches, to no effect with a fixed momentum
            assert torch.equal(saved.model[name], tensor), name


def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_been(data: Path, tmp_path: Path) -> None:
    train(tiny_run(data, tmp_path / "whole", tiny_recipe()), model=tiny_model())
    with pytest.raises(TrainingError):
        train(tiny_run(data, tmp_path / "stopped", tiny_recipe()), model=tiny_model(), losses=bad_at(9))
    train(tiny_run(data, tmp_path / "stopped", tiny_recipe()), resume=True, model=tiny_model())
    a, b = (checkpoints.load(tmp_path / name) for name in ("whole", "stopped"))
    assert all(torch.equal(a.ema[name], b.ema[name]) for name in a.ema if "num_batches" not in name)


def test_skip_goes_on_and_counts(data: Path, tmp_path: Path) -> None:
    run, watch = tiny_run(data, tmp_path, tiny_recipe(nonfinite="skip", max_skips=2, epochs=2)), Watch()
    train(run, model=tiny_model(), losses=bad_at(3, 4, 8), hooks=[watch])
    assert [report.step for report in watch.reports if report.skipped] == [3, 4, 8]
    assert [record["skipped_steps"] for record in run.history] == [2, 1]
    assert run.history[0]["curve"][-1][0] == 6
    before, after = watch.states[1], watch.states[3]
    for name, tensor in before.items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, after[name]), name
    assert not torch.equal(before["backbone.stem.weight"], watch.states[4]["backbone.stem.weight"])


def test_too_many_in_a_row_stop(data: Path, tmp_path: Path) -> None:
    run = tiny_run(data, tmp_path, tiny_recipe(nonfinite="skip", max_skips=2))
    with pytest.raises(TrainingError, match=r"step 4: "):
        train(run, model=tiny_model(), losses=bad_at(2, 3, 4, 5))
    saved = checkpoints.load(tmp_path)
    # The state before the step that was one too many.
    assert saved.progress is not None
    assert (saved.progress.step, saved.progress.skipped, saved.progress.skipped_in_row) == (3, 2, 2)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_counts_too(data: Path, tmp_path: Path, clip_norm: float) -> None:
    """The square root's slope at 0 is infinite where the loss is 0."""

    def losses(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"root": (0 * sum(detector_losses(model, batch).values())).sqrt()}

    run = tiny_run(data, tmp_path, tiny_recipe(clip_norm=clip_norm))
    with pytest.raises(TrainingError, match=r"step 1: .*root 0"):
        train(run, model=tiny_model(), losses=losses)


def shares_of(run: Run, data: Path) -> Batch:
    from retinanet_fast.engine.data.dataset import CocoDataset
    from retinanet_fast.engine.data.loader import train_batches
    from retinanet_fast.engine.data.order import TrainOrder

    dataset = CocoDataset(run.train_split, run.train_split.categories, run.recipe)
    order = TrainOrder(dataset.images, run.recipe)
    batches = train_batches(dataset, order, run.recipe, run.device, first_step=0, last_step=1)
    return next(batches)[0]


def test_the_message_names_level_and_image(data: Path, tmp_path: Path) -> None:
    run = tiny_run(data, tmp_path, tiny_recipe())
    run.state = make_state(run, tiny_model())
    share = shares_of(run, data)
    with torch.no_grad():
        run.state.model.head.classification_head.cls_logits.bias.fill_(torch.inf)  # type: ignore[union-attr]
    everyone = ", ".join(str(image_id) for image_id in share.image_ids)
    found = explain(run.state.model, [share], run.device)
    assert f"cls_logits of level 0 is not finite in images {everyone}" in found
    assert "bbox_regression" not in found


def test_the_message_names_the_image_whose_loss_it_is(data: Path, tmp_path: Path) -> None:
    run = tiny_run(data, tmp_path, tiny_recipe())
    model = tiny_model()
    share = shares_of(run, data)
    original, calls = model.loss_function, []

    def loss_function(*arguments: object, **options: object) -> dict[str, Tensor]:
        calls.append(1)
        losses = original(*arguments, **options)
        return {name: loss + (torch.inf if len(calls) == 2 else 0.0) for name, loss in losses.items()}

    model.loss_function = loss_function
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found = explain(model.train(), [share], run.device)
    assert f"of image {share.image_ids[1]}, whose logits and deltas are finite" in found
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            assert torch.equal(buffer, statistics[name]), name


def test_a_step_alone_changes_nothing(data: Path, tmp_path: Path) -> None:
    """On the device itself: without the loop, which hears of it later on a GPU."""
    run = tiny_run(data, tmp_path, tiny_recipe(nonfinite="stop"))
    run.state = make_state(run, tiny_model())
    share = shares_of(run, data)
    step = TrainStep(run, bad_at(2))
    run.state.model.train()
    step([share], 1e-3)
    before = {name: tensor.clone() for name, tensor in run.state.model.state_dict().items()}
    assert step([share], 1e-3)[2] > 0
    step([share], 1e-3)  # finite, but nobody has been told of the one before
    for name, tensor in run.state.model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, before[name]), name
