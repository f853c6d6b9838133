"""The learning rate that a recipe describes."""

from __future__ import annotations

import math

from retinanet_fast.engine.recipe.values import Recipe


def peak_rate(recipe: Recipe) -> float:
    r"""The learning rate after the warm-up: ``lr``, or ``lr * batch_size / lr_batch_size`` where that is not 0.

    The linear scaling rule of Goyal et al. (https://arxiv.org/abs/1706.02677): a recipe that was found for N images a
    step holds for other batch sizes too.
    """
    return recipe.lr * (recipe.batch_size / recipe.lr_batch_size if recipe.lr_batch_size else 1.0)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over the run: a linear warm-up to ``peak_rate``, times the factor of
    the schedule: ``step_gamma`` at each of ``steps``, or a cosine that ends at zero.
    """
    warmup = min(1.0, (step + 1) / max(1, recipe.warmup_iters))
    epoch = step / steps_per_epoch
    if recipe.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / recipe.epochs)))
    else:
        factor = recipe.step_gamma ** sum(epoch >= drop for drop in recipe.steps)
    return peak_rate(recipe) * warmup * factor


def describe_schedule(recipe: Recipe, steps_per_epoch: int) -> list[str]:
    """The schedule in a few lines: steps, the rate that the warm-up ends at, and how it falls."""
    steps = recipe.epochs * steps_per_epoch
    lines = [
        f"{recipe.epochs} epochs of {steps_per_epoch} steps of {recipe.batch_size} images: {steps} steps",
        f"learning rate {peak_rate(recipe):.3g}" + _scaling(recipe) + _warmup(recipe, steps, steps_per_epoch),
    ]
    if recipe.schedule == "cosine":
        lines.append(f"falls by a cosine to 0 at step {steps}")
    else:
        drops = sorted(drop for drop in recipe.steps if drop < recipe.epochs)
        factors = [recipe.step_gamma ** (index + 1) for index in range(len(drops))]
        lines += [
            f"falls to {peak_rate(recipe) * factor:.3g} at step {math.ceil(drop * steps_per_epoch)} (epoch {drop:g})"
            for drop, factor in zip(drops, factors)
        ]
    return lines


def _scaling(recipe: Recipe) -> str:
    if recipe.lr_batch_size in (0, recipe.batch_size):
        return ""
    return f" ({recipe.lr:.3g} for {recipe.lr_batch_size} images a step)"


def _warmup(recipe: Recipe, steps: int, steps_per_epoch: int) -> str:
    if recipe.warmup_iters <= 1:
        return ", without a warm-up"
    if recipe.warmup_iters > steps:
        return f", which the warm-up of {recipe.warmup_iters} steps does not reach"
    return (
        f" after a warm-up of {recipe.warmup_iters} steps (epoch {recipe.warmup_iters / steps_per_epoch:.2g})"
    )
