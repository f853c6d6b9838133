"""Model, data and recipe in a loop of one's own with Accelerate.

accelerate launch examples/accelerate_retinanet.py DATA [RECIPE]: DATA is a COCO-format data set, RECIPE a name or a
file. With several processes the batch size is still the recipe's, of all of them together.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.build_model import build_model, choose_device
from retinanet_fast.engine.data.dataset import CocoDataset, to_model
from retinanet_fast.engine.data.loader import train_batches
from retinanet_fast.engine.data.order import TrainOrder
from retinanet_fast.engine.data.sources import locate, read_split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.precision import resolve
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.recipe.schedule import learning_rate
from retinanet_fast.engine.training.optimizer import make_optimizer, set_learning_rate

PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def train(data: Path, recipe: Recipe, **options: Any) -> nn.Module:
    """Train in Accelerate's processes; the options are its ``Accelerator``'s. Returns the model."""
    dtype = resolve(recipe.precision, choose_device("cpu" if options.get("cpu") else "auto"))
    accelerator = Accelerator(mixed_precision=PRECISION[dtype], **options)
    device, rank, world_size = accelerator.device, accelerator.process_index, accelerator.num_processes
    recipe = recipe.replace(accumulate=1)
    torch.manual_seed(recipe.seed)
    split = read_split(locate(data, "train"), Problems(skip=False))
    dataset = CocoDataset(split, split.categories, recipe)
    order = TrainOrder(dataset.images, recipe)
    model = build_model(recipe, len(split.categories) + 1).to(device).train()
    model, optimizer = accelerator.prepare(model, make_optimizer(recipe, model, device))
    steps = {"first_step": 0, "last_step": recipe.epochs * order.steps_per_epoch}
    batches = train_batches(dataset, order, recipe, device, **steps, rank=rank, world_size=world_size)
    for step, shares in enumerate(batches):
        batch = shares[0].to(device)
        losses = model(to_model(batch.images, device), batch.targets, batch.sizes)
        # The processes take the mean of their gradients; the shares' weights add up to 1.
        accelerator.backward(batch.weight * world_size * sum(losses.values()))
        if recipe.clip_norm:
            accelerator.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        set_learning_rate(optimizer, learning_rate(recipe, step, order.steps_per_epoch))
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            accelerator.print(step, {name: round(loss.item(), 4) for name, loss in losses.items()})
    return accelerator.unwrap_model(model)


if __name__ == "__main__":
    train(Path(sys.argv[1]), recipes.load(sys.argv[2] if len(sys.argv) > 2 else "quick"))
