"""A training run of a second or two, of a detector of few weights, for the tests of the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.data.rendered import RenderOptions, render_data_set
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.processes import Processes
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.training.run import Run
from retinanet_fast.models import RetinaNet
from retinanet_fast.nn import AnchorGenerator

SIZE = 64
STRIDES = (8, 16, 32)


class TinyBackbone(nn.Module):
    """Three levels of 16 channels at strides 8, 16 and 32, each by one convolution; with a norm and a dropout."""

    out_channels = 16

    def __init__(self, norm: str = "batch") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, stride=8)
        self.norm = nn.BatchNorm2d(16) if norm == "batch" else nn.GroupNorm(4, 16)
        self.drop = nn.Dropout(0.1)
        self.down = nn.ModuleList(nn.Conv2d(16, 16, 3, stride=2, padding=1) for _ in STRIDES[1:])

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        levels = [self.drop(self.norm(self.stem(images)).relu())]
        for down in self.down:
            levels.append(down(levels[-1]).relu())
        return levels


def tiny_model(num_classes: int = 4, norm: str = "batch", seed: int = 0) -> RetinaNet:
    """The same model for the same arguments."""
    torch.manual_seed(seed)
    anchors = AnchorGenerator(tuple((4 * stride,) for stride in STRIDES), ((0.5, 1.0, 2.0),) * 3)
    model = RetinaNet(TinyBackbone(norm), num_classes, SIZE, SIZE, anchor_generator=anchors)
    if norm != "batch":
        model.backbone.drop.p = 0.0  # type: ignore[union-attr]
    return model


def finding_model() -> RetinaNet:
    """A tiny model that detects after a few steps, when its scores are still low: its AP is not zero."""
    model = tiny_model()
    model.score_thresh = 0.0
    return model


def beside_recipe(**values: Any) -> Recipe:
    """Four epochs, the first three of them scored beside training. Of ``finding_model`` the third is the best."""
    defaults: dict[str, Any] = {"score_beside": True, "epochs": 4, "lr": 3e-3, "ema_decay": 0.5}
    return tiny_recipe(**{**defaults, **values})


def tiny_recipe(**values: Any) -> Recipe:
    """Three epochs of six steps, with everything on that has a state."""
    defaults: dict[str, Any] = {
        "min_size": [48, SIZE],
        "max_size": SIZE,
        "epochs": 3,
        "batch_size": 4,
        "optimizer": "adamw",
        "lr": 1e-3,
        "warmup_iters": 3,
        "clip_norm": 1.0,
        "ema_decay": 0.9,
        "schedule": "cosine",
        "precision": "float32",
    }
    return Recipe(**{**defaults, **values})


def render(folder: Path, train: int = 23, val: int = 5) -> Path:
    """A rendered data set; the last batch of 4 is not full."""
    render_data_set(folder, RenderOptions(train=train, val=val, size=SIZE))
    return folder


def tiny_run(
    data: Path, out: Path, recipe: Recipe, skip_bad: bool = False, processes: Processes | None = None
) -> Run:
    """A run of the recipe over a rendered data set."""
    problems = Problems(skip_bad)
    train, val = (read_split(_located(data, split), problems) for split in ("train", "val"))
    device = torch.device("cpu")
    return Run(recipe, train, val, out, device, problems, _silent, processes or Processes())


def _located(data: Path, split: str) -> Any:
    found = locate(data, split)
    assert found is not None
    return found


def _silent(_: str) -> None:
    pass
