"""The same training run with the fused loss and with its eager twin: loss curves, time and memory.

    python -m benchmarks.training_run --data DIR [--recipe bccd] [--steps 52] [--json FILE] [--chart FILE]

Three runs from the same weights over the same batches: fused, eager, and eager again from weights that were changed by
one part in a million. How far the last two drift apart is the noise that any other rounding makes of a training run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import describe
from benchmarks.harness import resident_peak
from retinanet_fast import ops, reference
from retinanet_fast.engine.build_model import build_model, choose_device
from retinanet_fast.engine.data.dataset import CocoDataset
from retinanet_fast.engine.data.loader import train_batches
from retinanet_fast.engine.data.order import TrainOrder
from retinanet_fast.engine.data.sources import locate, read_split
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.recipe import Recipe, load
from retinanet_fast.engine.recipe.schedule import learning_rate
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.step import TrainStep
from retinanet_fast.engine.training.train import make_state

RUNS = {
    "fused": (ops.retinanet_loss, 0.0),
    "eager": (reference.retinanet_loss, 0.0),
    "eager, other rounding": (reference.retinanet_loss, 1e-6),
}


WARM_UP_STEPS = 3


@dataclass
class Curve:
    """One run: one loss per step, and the medians of what a step took."""

    losses: list[float] = field(default_factory=list)
    step_seconds: float = 0.0
    loss_forward_seconds: float = 0.0
    peak_bytes: int | None = None  # how far the process's memory rose above what it held before the run


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return result

    return call


def train(recipe: Recipe, split: Split, device: torch.device, loss: Any, change: float, steps: int) -> Curve:
    """The program's own steps, with ``loss`` in the place of the model's loss function."""
    run = Run(recipe, split, None, Path(), device, Problems(skip=False))
    dataset = CocoDataset(split, split.categories, recipe)
    order = TrainOrder(dataset.images, recipe)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, len(split.categories) + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + change * torch.randn_like(parameter))
    curve = Curve()
    loss_seconds: list[float] = []
    model.loss_function = timed(loss, loss_seconds)
    run.state = make_state(run, model)
    step = TrainStep(run)
    model.train()
    step_seconds: list[float] = []

    def all_steps() -> None:
        batches = train_batches(dataset, order, recipe, device, first_step=0, last_step=steps)
        for number, shares in enumerate(batches):
            start = time.perf_counter()
            rate = learning_rate(recipe, number, order.steps_per_epoch)
            found = step([share.to(device) for share in shares], rate)
            curve.losses.append(found[: len(step.names)].sum().item())
            step_seconds.append(time.perf_counter() - start)

    curve.peak_bytes = resident_peak(all_steps)
    curve.step_seconds = median(step_seconds)
    curve.loss_forward_seconds = median(loss_seconds)
    return curve


def smoothed(losses: list[float], over: int = 5) -> Tensor:
    return torch.tensor(losses).unfold(0, min(over, len(losses)), 1).mean(1)


def largest_gap(a: Curve, b: Curve) -> float:
    """The relative difference of the smoothed losses."""
    x, y = smoothed(a.losses), smoothed(b.losses)
    return float(((x - y).abs() / y).max())


def draw(curves: dict[str, Curve], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for (name, curve), style in zip(curves.items(), ("-", "--", ":"), strict=True):
        axes.plot(smoothed(curve.losses), style, label=name, linewidth=1.8)
    axes.set(
        xlabel="step", ylabel="loss, mean of 5 steps", title="The same training run, fused and eager loss"
    )
    axes.legend()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 if the fused run strays further from the eager one than noise does; 2 for bad input."""
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks.training_run", description=__doc__.split("\n")[0]
    )
    parse.add_argument("--data", type=Path, required=True, help="a folder of a COCO-format data set")
    parse.add_argument("--recipe", default="bccd")
    parse.add_argument("--steps", type=int, default=52)
    parse.add_argument("--device", default="auto")
    parse.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="float32",
        help="default: float32, so that the losses alone differ and not their inputs' rounding",
    )
    parse.add_argument("--json", type=Path, default=Path("runs/training_run.json"))
    parse.add_argument("--chart", type=Path, default=Path("runs/training_run.png"))
    options = parse.parse_args(argv)
    try:
        return run(options)
    except (InputError, OSError) as error:
        print(f"training_run: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    device = choose_device(options.device)
    recipe = load(options.recipe).replace(precision=options.precision)
    location = locate(options.data, "train")
    if location is None:
        raise InputError(f"{options.data}: expected annotations/instances_train.json with images/")
    split = read_split(location, Problems(skip=False))
    train(recipe, split, device, ops.retinanet_loss, 0.0, WARM_UP_STEPS)  # what a process allocates once
    curves = {}
    for name, (loss, change) in RUNS.items():
        curves[name] = curve = train(recipe, split, device, loss, change, options.steps)
        memory = "" if curve.peak_bytes is None else f", peak memory {curve.peak_bytes / 2**20:.0f} MiB"
        print(
            f"{name:<22} loss {curve.losses[0]:.4f} to {smoothed(curve.losses)[-1]:.4f}, a step "
            f"{1e3 * curve.step_seconds:.0f} ms, of it the loss's forward {1e3 * curve.loss_forward_seconds:.2f} ms"
            + memory,
            flush=True,
        )
    noise = largest_gap(curves["eager, other rounding"], curves["eager"])
    gap = largest_gap(curves["fused"], curves["eager"])
    print(f"largest gap to eager: fused {gap:.2%}, noise {noise:.2%}")
    for file in (options.json, options.chart):
        file.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "environment": describe(device),
        "recipe": options.recipe,
        "precision": options.precision,
        "runs": {name: asdict(curve) for name, curve in curves.items()},
        "gap": gap,
        "noise": noise,
    }
    write_text(options.json, json.dumps(result, indent=1) + "\n")
    draw(curves, options.chart)
    return 0 if gap <= 2 * noise + 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
