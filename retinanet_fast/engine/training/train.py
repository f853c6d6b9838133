"""The training loop."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retinanet_fast import synchronize_errors
from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.checkpoint import BEST, LAST, Checkpoint
from retinanet_fast.engine.data.coco import Split
from retinanet_fast.engine.data.dataset import CocoDataset, Sample, read, readable, to_model, train_loader
from retinanet_fast.engine.errors import InputError, Problems, TrainingError
from retinanet_fast.engine.evaluation.coco_numbers import Evaluation, evaluate
from retinanet_fast.engine.evaluation.detect import detect
from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.precision import autocast, resolve
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.reporting import plots
from retinanet_fast.engine.reporting.progress import Progress
from retinanet_fast.models.weights import settings_of

METRICS = "metrics.jsonl"
LOSSES = ("classification", "bbox_regression")
# Points of the loss curve that the record of an epoch keeps.
CURVE_POINTS = 40


@dataclass
class Run:
    """A training run: what it trains on, where it writes, and how far it has come."""

    recipe: Recipe
    train_split: Split
    val_split: Split | None
    out: Path
    device: torch.device
    problems: Problems
    say: Callable[[str], None] = print
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluation: Evaluation | None = None


def learning_rate(recipe: Recipe, iteration: int, per_epoch: int) -> float:
    """The learning rate of a step: a linear warm-up, times steps or a cosine that ends at zero."""
    warmup = min(1.0, (iteration + 1) / max(1, recipe.warmup_iters))
    epoch = iteration / per_epoch
    if recipe.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / recipe.epochs)))
    else:
        factor = recipe.step_gamma ** sum(epoch >= step for step in recipe.steps)
    return recipe.lr * warmup * factor


def train(run: Run, resume: bool = False) -> nn.Module:
    """Train, and write a checkpoint, metrics, plots and the recipe to ``run.out`` after each epoch.

    Returns:
        The trained model; the last evaluation is in ``run.evaluation``.

    Raises:
        InputError: bad data, or a checkpoint of another model.
        TrainingError: the loss is not finite.
    """
    recipe = run.recipe
    torch.manual_seed(recipe.seed)
    dataset = CocoDataset(run.train_split, run.train_split.categories, recipe)
    if len(dataset) == 0:
        raise InputError(f"{run.train_split.annotations}: no image with boxes: the data set is empty")
    if run.val_split is not None:
        # Unknown categories are told before the first epoch.
        CocoDataset(run.val_split, run.train_split.categories)
    model = build_model(recipe, len(run.train_split.categories) + 1)
    state = _load_state(run, model) if resume else None
    if state is None:
        _start(run, model)
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model.to(run.device, memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = make_optimizer(recipe, model)
    if state is not None:
        restore_optimizer(optimizer, state.optimizer, checkpoints.find(run.out))
    write_text(run.out / "recipe.toml", recipe.to_toml())
    if run.epoch >= recipe.epochs:
        run.say(f"{run.out} has its {run.epoch} epochs already; --epochs asks for more")
    while run.epoch < recipe.epochs:
        record = train_epoch(run, model, optimizer, dataset)
        run.epoch += 1
        last = run.epoch == recipe.epochs
        if run.val_split is not None and (last or run.epoch % recipe.eval_every == 0):
            record.update(_evaluate(run, model))
        run.history.append(record)
        _save(run, model, optimizer)
        run.say(describe(record, recipe.epochs))
    synchronize_errors()  # what the GPU found in the last batch
    return model


def _start(run: Run, model: nn.Module) -> None:
    """Begin a new run: remove what an earlier one left in its folder, and take given weights."""
    for name in (LAST, BEST, METRICS):
        (run.out / name).unlink(missing_ok=True)
    if run.recipe.init:
        run.say(f"start from {run.recipe.init}: {checkpoints.start_from(model, run.recipe.init)}")


def _load_state(run: Run, model: nn.Module) -> Checkpoint:
    """The state to go on from, its weights in the model and its epochs in the run."""
    source = checkpoints.find(run.out)
    state = checkpoints.load(source)
    checkpoints.restore(model, state, source)
    if [c.name for c in state.categories] != [c.name for c in run.train_split.categories]:
        raise InputError(f"{source}: a checkpoint of another model: it was trained on other categories")
    run.epoch, run.history = state.epoch, state.history
    return state


def train_epoch(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, dataset: CocoDataset
) -> dict[str, Any]:
    """One pass over the images; returns the epoch's record."""
    # Seeded by the epoch, so that a resumed run draws what an uninterrupted one would have drawn.
    torch.manual_seed(run.recipe.seed + 1000 * (run.epoch + 1))
    dataset.epoch = run.epoch
    loader = train_loader(dataset, run.recipe, run.device)
    total = len(loader)
    model.train()
    progress = Progress(f"epoch {run.epoch + 1}/{run.recipe.epochs}", total)
    losses: list[Tensor] = []
    images, started, rate = 0, time.perf_counter(), 0.0
    for done, batch in enumerate(read(loader), start=1):
        rate = learning_rate(run.recipe, run.epoch * total + done - 1, total)
        samples = readable(batch, run.problems)
        if samples:
            losses.append(train_step(run, model, optimizer, samples, rate))
            images += len(samples)
        if losses and progress.due():
            loss = torch.stack(losses[-20:]).sum(1).mean().item()
            _check_finite(loss, run, done)
            speed = images / (time.perf_counter() - started)
            progress.draw(done, f"loss {loss:.4f}  {speed:.1f} images/s  lr {rate:.2g}")
    progress.close()
    if not losses:
        raise InputError(f"{run.train_split.annotations}: no readable image: the data set is empty")
    table = torch.stack(losses).cpu()
    mean = table.mean(0).tolist()
    _check_finite(sum(mean), run, total)
    seconds = time.perf_counter() - started
    return {
        "epoch": run.epoch + 1,
        "iterations": (run.epoch + 1) * total,
        "loss": sum(mean),
        **dict(zip(LOSSES, mean, strict=True)),
        "lr": rate,
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "skipped": len(run.problems.messages),
        "curve": loss_curve(table, run.epoch * total),
    }


def train_step(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, samples: list[Sample], rate: float
) -> Tensor:
    """One step; the losses ``[2]`` stay on the device, since reading them would wait for it."""
    device = run.device
    images = to_model([sample.image for sample in samples], device)
    targets = [{"boxes": sample.boxes.to(device), "labels": sample.labels.to(device)} for sample in samples]
    with autocast(device, resolve(run.recipe.precision, device)):
        found = model(images, targets)
    losses = torch.stack([found[name] for name in LOSSES])
    optimizer.zero_grad(set_to_none=True)
    losses.sum().backward()
    if run.recipe.clip_norm > 0:
        nn.utils.clip_grad_norm_(model.parameters(), run.recipe.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return losses.detach()


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], source: Path) -> None:
    """Give the optimizer its state; the recipe's own weight decay and momentum are kept.

    Raises:
        InputError: the state is of another optimizer, or absent.
    """
    settings = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    try:
        optimizer.load_state_dict(state)
    except (KeyError, ValueError):
        raise InputError(f"{source}: holds no state of this optimizer to resume from") from None
    for group, values in zip(optimizer.param_groups, settings):
        group.update(values)


def loss_curve(losses: Tensor, first: int) -> list[list[float]]:
    """At most ``CURVE_POINTS`` points (step, classification, box regression), each a mean over its steps."""
    parts = losses.tensor_split(min(CURVE_POINTS, len(losses)))
    points, step = [], first
    for part in parts:
        step += len(part)
        points.append([float(step), *part.mean(0).tolist()])
    return points


def describe(record: dict[str, Any], epochs: int) -> str:
    """An epoch's record in one line."""
    line = (
        f"epoch {record['epoch']}/{epochs}  loss {record['loss']:.4f} (classification "
        f"{record['classification']:.4f}, boxes {record['bbox_regression']:.4f})  "
        f"{record['images_per_second']:.1f} images/s"
    )
    if "AP" in record:
        line += f"  AP {record['AP']:.3f}  AP50 {record['AP50']:.3f}"
    return line


def _check_finite(loss: float, run: Run, done: int) -> None:
    if not math.isfinite(loss):
        where = f"epoch {run.epoch + 1}, step {done}"
        raise TrainingError(f"{where}: the loss is {loss}; a smaller --lr or a --clip-norm may help")


def _evaluate(run: Run, model: nn.Module) -> dict[str, Any]:
    assert run.val_split is not None
    split = dataclasses.replace(run.val_split, images=run.val_split.images[: run.recipe.eval_images or None])
    found = detect(model, split, run.train_split.categories, run.recipe, run.device, run.problems)
    assert found is not None
    run.evaluation = evaluate(split, found.results, found.image_ids)
    return {**run.evaluation.numbers, "eval_images_per_second": found.images_per_second}


def _save(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the checkpoint first: if anything stops the rest, the epoch is kept."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    state = Checkpoint(
        model=weights,
        recipe=run.recipe,
        categories=run.train_split.categories,
        epoch=run.epoch,
        optimizer=optimizer.state_dict(),
        history=run.history,
        settings=settings_of(model),
    )
    state.save(run.out / LAST)
    if _is_best(run.history):
        dataclasses.replace(state, optimizer={}).save(run.out / BEST)
    write_text(run.out / METRICS, "".join(json.dumps(_finite(record)) + "\n" for record in run.history))
    plots.loss_plot(run.history, run.out / "loss.png")
    plots.ap_plot(run.history, run.out / "ap.png")


def _is_best(history: list[dict[str, Any]]) -> bool:
    """Whether the last epoch was evaluated, and better than all before it."""
    if "AP" not in history[-1]:
        return False
    return all(history[-1]["AP"] > record.get("AP", -1.0) for record in history[:-1])


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a number without ground truth is null."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}
