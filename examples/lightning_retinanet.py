"""Model, data and recipe in Lightning's loop.

python examples/lightning_retinanet.py DATA [RECIPE]: DATA is a COCO-format data set, RECIPE a name or a file. Options
(devices, strategy, loggers, callbacks) go to its Trainer. With several devices the batch size is still the
recipe's, of all of them together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.build_model import build_model, choose_device
from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.data.dataset import CocoDataset, to_model
from retinanet_fast.engine.data.loader import train_batches
from retinanet_fast.engine.data.order import TrainOrder
from retinanet_fast.engine.data.sources import locate, read_split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.precision import resolve
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.recipe.schedule import learning_rate
from retinanet_fast.engine.training.optimizer import make_optimizer

PRECISION = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


class Epochs:
    """Each iteration is the epoch that the trainer is at."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    def __iter__(self) -> Iterator[list[Batch]]:
        own, first = self.detector, self.detector.global_step
        return train_batches(
            *(own.dataset, own.order, own.recipe, own.device),
            first_step=first,
            last_step=first + own.order.steps_per_epoch,
            rank=own.global_rank,
            world_size=own.trainer.world_size,
        )


class Detector(lightning.LightningModule):
    def __init__(self, data: Path, recipe: Recipe) -> None:
        super().__init__()
        split = read_split(locate(data, "train"), Problems(skip=False))
        self.recipe = recipe
        self.dataset = CocoDataset(split, split.categories, recipe)
        self.order = TrainOrder(self.dataset.images, recipe)
        self.model = build_model(recipe, len(split.categories) + 1)

    def train_dataloader(self) -> Epochs:
        return Epochs(self)

    def training_step(self, shares: list[Batch], _: int) -> Tensor:
        (batch,) = shares
        losses = self.model(to_model(batch.images, self.device), batch.targets, batch.sizes)
        self.log_dict(losses, prog_bar=True, batch_size=len(batch.images))
        # Lightning's processes take the mean of their gradients; the shares' weights add up to 1.
        return batch.weight * self.trainer.world_size * sum(losses.values())

    def rate(self, step: int) -> float:
        return learning_rate(self.recipe, step, self.order.steps_per_epoch) / self.recipe.lr

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = make_optimizer(self.recipe, self.model, self.device)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def train(data: Path, recipe: Recipe, **options: Any) -> nn.Module:
    """Train by Lightning's Trainer, which gets the options; returns the model."""
    lightning.seed_everything(recipe.seed)
    detector = Detector(data, recipe.replace(accumulate=1))
    device = choose_device({"gpu": "cuda", "cpu": "cpu"}.get(options.get("accelerator", ""), "auto"))
    trainer = lightning.Trainer(
        max_epochs=recipe.epochs,
        precision=PRECISION[resolve(recipe.precision, device)],
        gradient_clip_val=recipe.clip_norm or None,
        **options,
    )
    trainer.fit(detector)
    return detector.model


if __name__ == "__main__":
    train(Path(sys.argv[1]), recipes.load(sys.argv[2] if len(sys.argv) > 2 else "quick"))
