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
