"""A rehearsal: what a run would take, told after a few steps, without leaving anything behind."""

from __future__ import annotations

import time
from dataclasses import dataclass

from retinanet_fast import synchronize_errors
from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.data.dataset import CocoDataset
from retinanet_fast.engine.data.loader import train_batches
from retinanet_fast.engine.data.order import TrainOrder
from retinanet_fast.engine.errors import TrainingError
from retinanet_fast.engine.evaluation.detect import detect
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.recipe.schedule import describe_schedule, learning_rate
from retinanet_fast.engine.training.clock import memory_bytes
from retinanet_fast.engine.training.prefetch import DevicePrefetcher
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.train import make_state, make_step, prepare

# The first step allocates and prepares, and is not counted.
STEPS = 3


@dataclass(frozen=True)
class Forecast:
    """What a run would take.

    Attributes:
        memory_bytes: at most so far: of the GPU, or of the process on a CPU; None where it is not known.
        evaluated_per_second: images; None where nothing is evaluated.
        evaluated_images: in each evaluation.
    """

    recipe: Recipe
    steps_per_epoch: int
    step_seconds: float
    memory_bytes: int | None
    evaluated_images: int
    evaluated_per_second: float | None

    @property
    def training_seconds(self) -> float:
        """Of all steps."""
        return self.recipe.epochs * self.steps_per_epoch * self.step_seconds

    @property
    def evaluation_seconds(self) -> float:
        """Of all evaluations, without COCO's numbers."""
        if self.evaluated_per_second is None:
            return 0.0
        return evaluations(self.recipe) * self.evaluated_images / self.evaluated_per_second

    def lines(self) -> list[str]:
        """For people."""
        speed = self.recipe.batch_size / self.step_seconds
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 1e9:.2f} GB at most"
        lines = [
            *describe_schedule(self.recipe, self.steps_per_epoch),
            f"a step takes {self.step_seconds:.3g} s: {speed:.1f} images/s{memory}",
        ]
        shares = "all of it training"
        if self.evaluated_per_second is not None:
            rate = f"{self.evaluated_per_second:.1f} images/s"
            count = evaluations(self.recipe)
            noun = "evaluation" if count == 1 else "evaluations"
            lines.append(f"{count} {noun} of {self.evaluated_images} images at {rate}")
            training, evaluating = duration(self.training_seconds), duration(self.evaluation_seconds)
            shares = f"{training} of training, {evaluating} of evaluation"
        total = duration(self.training_seconds + self.evaluation_seconds)
        return [*lines, f"the run would take about {total}: {shares}"]


def dry_run(run: Run) -> Forecast:
    """Check the data, take a few steps and evaluate a batch twice. Nothing is written.

    Raises:
        InputError: bad data, or weights of another model.
        TrainingError: the first losses are not finite.
    """
    dataset, order = prepare(run)
    run.state = make_state(run, build_model(run.recipe, len(run.train_split.categories) + 1))
    step_seconds = _train(run, dataset, order)
    memory = memory_bytes(run.device)
    speed = _evaluate(run) if run.val_split is not None else None
    images = 0 if run.val_split is None else len(run.val_split.images[: run.recipe.eval_images or None])
    return Forecast(run.recipe, run.steps_per_epoch, step_seconds, memory, images, speed)


def evaluations(recipe: Recipe) -> int:
    """Every ``eval_every`` epochs, and after the last."""
    return -(-recipe.epochs // recipe.eval_every)


def duration(seconds: float) -> str:
    """Such as ``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _train(run: Run, dataset: CocoDataset, order: TrainOrder) -> float:
    """The seconds of a step."""
    run.state.model.train()
    steps = min(STEPS, run.num_steps)
    batches = train_batches(
        dataset,
        order,
        run.recipe,
        run.device,
        first_step=0,
        last_step=steps,
        rank=run.processes.rank,
        world_size=run.processes.world_size,
    )
    step, times = make_step(run), [time.perf_counter()]
    for index, shares in enumerate(DevicePrefetcher(batches, run.device)):
        for message in (message for share in shares for message in share.messages):
            run.problems.report(message)
        found = step(shares, learning_rate(run.recipe, index, run.steps_per_epoch)).tolist()
        if found[len(step.names)] > 0:
            raise TrainingError(f"step {index + 1}: the loss is not finite: {dict(zip(step.names, found))}")
        times.append(time.perf_counter())
    synchronize_errors()
    return (times[-1] - times[1]) / (steps - 1) if steps > 1 else times[1] - times[0]


def _evaluate(run: Run) -> float | None:
    """Images per second of an evaluation of one batch; the first one allocates and prepares."""
    assert run.val_split is not None
    size = min(run.recipe.batch_size * run.processes.world_size, len(run.val_split.images))
    split = run.val_split.first(size)
    for _ in range(2):
        found = detect(
            run.state.best_model,
            split,
            run.train_split.categories,
            run.recipe,
            run.device,
            run.problems,
            processes=run.processes,
        )
    return found.images_per_second if found is not None else None
