"""Puts a training run together, and trains."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from retinanet_fast import synchronize_errors
from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.data.dataset import CocoDataset
from retinanet_fast.engine.data.loader import train_batches
from retinanet_fast.engine.data.order import TrainOrder
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.norms import check_norm
from retinanet_fast.engine.precision import describe, resolve, use_tf32
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.run_record import DataRecord, RunRecord
from retinanet_fast.engine.signals import stop_requests
from retinanet_fast.engine.training.compiled import compile_network
from retinanet_fast.engine.training.ema import Ema
from retinanet_fast.engine.training.evaluating import Evaluate
from retinanet_fast.engine.training.graphed import GraphedStep, check_run
from retinanet_fast.engine.training.hooks import Hook
from retinanet_fast.engine.training.loop import Loop
from retinanet_fast.engine.training.optimizer import make_optimizer
from retinanet_fast.engine.training.prefetch import DevicePrefetcher
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.saving import Saver
from retinanet_fast.engine.training.scoring import Scoring
from retinanet_fast.engine.training.state import TrainState
from retinanet_fast.engine.training.step import Losses, TrainStep, detector_losses


def train(
    run: Run,
    resume: bool = False,
    *,
    hooks: Sequence[Hook] = (),
    model: nn.Module | None = None,
    losses: Losses = detector_losses,
) -> nn.Module:
    """Train, in this process alone or with those that ``run.processes`` names.

    Args:
        resume: go on from ``last.pt`` in ``run.out``.
        hooks: are told of steps, epochs and checkpoints, after the evaluation of an epoch.
        model: trained instead of the one that the recipe describes; called as ``losses`` calls it.
        losses: what is minimised: their sum.

    Returns:
        The trained model (the averaged one where the recipe asks for it), in evaluation mode; the last evaluation is
        in ``run.evaluation``.

    Raises:
        InputError: bad data, or a checkpoint of another model.
        TrainingError: the loss is not finite.
        Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    folder = RunFolder(run.out)
    with stop_requests() as stop, folder.locked() if run.processes.is_main else nullcontext():
        dataset, order = prepare(run)
        from_scratch = model is None and not resume
        model = model or build_model(run.recipe, len(run.train_split.categories) + 1)
        run.state = make_state(run, model, from_scratch)
        saver = Saver(run, folder)
        if resume:
            saver.restore()
        _write_down(run, folder)
        if len(run.history) >= run.recipe.epochs:
            run.say(f"{run.out} has its {run.epoch} epochs already; --epochs asks for more")
        step = make_step(run, losses)
        every_hook = [Evaluate(stop), *hooks]
        drawings = [drawing for hook in hooks if (drawing := hook.drawing())]
        scoring = Scoring(run, folder, stop, drawings)
        for hook in every_hook:
            hook.on_start(run)
        batches = train_batches(
            dataset,
            order,
            run.recipe,
            run.device,
            first_step=run.state.step,
            last_step=run.num_steps,
            rank=run.processes.rank,
            world_size=run.processes.world_size,
        )
        run.state.model.train()
        try:
            Loop(run, step, order, every_hook, saver, scoring, stop)(DevicePrefetcher(batches, run.device))
        finally:
            scoring.end()
            for hook in every_hook:
                hook.on_end(run)
    synchronize_errors()  # what the GPU found in the last batch
    return run.state.best_model.eval()


def saved_record(out: Path) -> RunRecord:
    """What is written down of the run in a folder, to resume it: by its checkpoint, or, before the first, ``run.json``.

    Raises:
        InputError: there is no run.
    """
    folder = RunFolder(out)
    if folder.last.is_file() and (record := checkpoints.load(folder.last).record):
        return RunRecord.from_dict(record, str(folder.last))
    return folder.read()


def prepare(run: Run) -> tuple[CocoDataset, TrainOrder]:
    """Data and order, checked before anything is written, for the process's own device.

    Raises:
        InputError: bad data, or a norm or steps that this device or number of processes cannot have.
    """
    use_tf32(run.device)
    run.device = run.processes.own_device(run.device)
    check_norm(run.recipe, run.device, run.processes.world_size)
    if run.recipe.cuda_graph:
        check_run(run)
    torch.manual_seed(run.recipe.seed)
    dataset = CocoDataset(run.train_split, run.train_split.categories, run.recipe)
    if len(dataset) == 0:
        raise InputError(f"{run.train_split.annotations}: no image with boxes: the data set is empty")
    if run.val_split is not None:
        # Unknown categories are told before the first epoch.
        CocoDataset(run.val_split, run.train_split.categories)
    order = TrainOrder(dataset.images, run.recipe)
    run.steps_per_epoch = order.steps_per_epoch
    run.say(f"batches: {order.padding():.1%} of the pixels pad images to the size of their batch")
    return dataset, order


def make_step(run: Run, losses: Losses = detector_losses) -> TrainStep:
    """The step that the recipe asks for.

    Raises:
        InputError: the model cannot be compiled, or the step cannot be captured.
    """
    if run.recipe.compile:
        compile_network(run.state.model, run.say)
    return GraphedStep(run, losses) if run.recipe.cuda_graph else TrainStep(run, losses)


def _write_down(run: Run, folder: RunFolder) -> None:
    """Write ``run.json``, or, where an earlier run is in the folder, prepare to when the first checkpoint is there."""
    splits = {"train": run.train_split, "val": run.val_split}
    data = {name: DataRecord.of(split) for name, split in splits.items() if split is not None}
    if run.record is None:
        run.record = RunRecord(run.recipe, data, run.problems.skip)
    run.record.check_data(data)
    run.record.recipe, run.record.data = run.recipe, data
    precision = describe(run.recipe.precision, run.device)
    run.record.started(run.device, run.processes.world_size, run.state.step, precision)
    if run.processes.is_main:
        folder.start(run.record)


def make_state(run: Run, model: nn.Module, start_from_scratch: bool = True) -> TrainState:
    """The state before the first step, with the model on the run's device.

    Args:
        start_from_scratch: give the model the weights of the recipe's ``init``, if it names any.
    """
    recipe = run.recipe
    if recipe.init and start_from_scratch:
        run.say(f"start from {recipe.init}: {checkpoints.start_from(model, recipe.init)}")
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model.to(run.device, memory_format=memory_format)  # type: ignore[call-overload]
    half = resolve(recipe.precision, run.device) == torch.float16
    return TrainState(
        model=model,
        optimizer=make_optimizer(recipe, model, run.device),
        scaler=torch.amp.GradScaler(run.device.type, enabled=half),
        ema=Ema(model, recipe.ema_decay) if recipe.ema_decay > 0 else None,
    )
