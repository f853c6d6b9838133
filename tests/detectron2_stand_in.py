"""As much of detectron2 as ``retinanet_fast.compat.detectron2`` touches, so that its tests need no detectron2."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retinanet_fast.compat import detectron2 as compat


class Boxes:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)


class Instances:
    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        self.image_size = image_size
        self.__dict__.update(fields)


class ImageList:
    def __init__(self, image_sizes: list[tuple[int, int]]) -> None:
        self.image_sizes = image_sizes


class EventStorage:
    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}

    def put_scalar(self, name: str, value: float) -> None:
        self.scalars[name] = value


def install(monkeypatch: pytest.MonkeyPatch) -> EventStorage:
    """Put the classes where detectron2 has them, for one test."""
    storage = EventStorage()
    structures = ModuleType("detectron2.structures")
    structures.__dict__.update(Boxes=Boxes, Instances=Instances)
    events = ModuleType("detectron2.utils.events")
    events.__dict__.update(get_event_storage=lambda: storage)
    for name in ("detectron2", "detectron2.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for module in (structures, events):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return storage


class RetinaNet(nn.Module):
    """A RetinaNet's settings, and the steps of its training, without a network."""

    def __init__(self, num_classes: int, **settings: Any) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.anchor_generator = compat.DefaultAnchorGenerator(
            sizes=[[24.0], [48.0]], aspect_ratios=[[0.5, 1.0, 2.0]], strides=[16, 32], offset=0.5
        )
        self.box2box_transform = compat.Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
        self.anchor_matcher = compat.Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)
        self.focal_loss_alpha = 0.25
        self.focal_loss_gamma = 2.0
        self.smooth_l1_beta = 0.0
        self.box_reg_loss_type = "smooth_l1"
        self.test_score_thresh = 0.05
        self.test_topk_candidates = 1000
        self.test_nms_thresh = 0.5
        self.max_detections_per_image = 100
        for name, value in settings.items():
            setattr(self, name, value)

    def label_anchors(self, anchors: Any, gt_instances: Any) -> Any:
        raise NotImplementedError

    label_anchors.__module__ = "detectron2.modeling.meta_arch.retinanet"
    losses = forward_inference = inference_single_image = label_anchors

    def forward_training(self, images: Any, features: Any, predictions: Any, gt_instances: Any) -> Any:
        widths = (self.num_classes, 4)
        logits, deltas = (
            [level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, k)) for level in levels]
            for levels, k in zip(predictions, widths)
        )
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, gt_labels, deltas, gt_boxes)

    def _ema_update(self, name: str, value: float, initial_value: float, momentum: float = 0.9) -> float:
        new = getattr(self, name, initial_value) * momentum + value * (1 - momentum)
        setattr(self, name, new)
        return new


def wave(*shape: int, step: float, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Numbers that look random and are the same everywhere."""
    n = torch.Size(shape).numel()
    return (torch.arange(n, dtype=torch.float64).mul(step).sin() * scale + shift).reshape(shape).float()


# One small head on an image of 64 x 80 pixels, for three images.
K = 3
GRIDS = ((4, 5), (2, 3))  # 60 and 18 anchors, 3 a cell
FEATURES = [torch.zeros(3, 1, *grid) for grid in GRIDS]


def head_outputs(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
    logits = [
        wave(3, 3 * K, *grid, step=0.7 + level * 0.2, scale=3.0, shift=-1.5)
        for level, grid in enumerate(GRIDS)
    ]
    deltas = [wave(3, 3 * 4, *grid, step=0.9 + level * 0.2, scale=0.5) for level, grid in enumerate(GRIDS)]
    return (
        [x.to(dtype).requires_grad_() for x in logits],
        [x.to(dtype).requires_grad_() for x in deltas],
    )


def as_rows(levels: list[Tensor], width: int) -> list[Tensor]:
    """``[N, A * width, H, W]`` as detectron2's ``[N, H * W * A, width]``."""
    return [level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width)) for level in levels]


def model(**settings: Any) -> RetinaNet:
    return compat.accelerate_retinanet(RetinaNet(K, **settings))
