"""A user's file: test_surface.py runs mypy --strict on it, and runs it."""

from __future__ import annotations

import torch
from torch import Tensor

import retinanet_fast
from retinanet_fast import AnchorGrid, Detections, models, nn, ops, reference
from retinanet_fast.acceleration import Report, report
from retinanet_fast.compat import fvcore, mmcv, torchvision
from retinanet_fast.models import LoadReport, RetinaNet


class Detector(torch.nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model: RetinaNet = models.retinanet_resnet18_fpn(
            num_classes=num_classes, min_size=64, max_size=64
        )
        self.anchors = nn.AnchorGenerator(((32,), (64,)), ((0.5, 1.0, 2.0),) * 2)

    def grid(self, image_size: tuple[int, int]) -> AnchorGrid:
        return self.anchors(image_size, [(8, 8), (4, 4)])

    def detect(self, logits: list[Tensor], deltas: list[Tensor], grid: AnchorGrid) -> list[dict[str, Tensor]]:
        found: Detections = ops.retinanet_detect(logits, deltas, grid, [(64, 64)])
        return found.unpack()

    def loss(self, logits: list[Tensor], deltas: list[Tensor], grid: AnchorGrid) -> Tensor:
        boxes, labels = [torch.tensor([[4.0, 4, 40, 40]])], [torch.tensor([1])]
        losses: dict[str, Tensor] = ops.retinanet_loss(logits, deltas, grid, boxes, labels)
        return losses["classification"] + losses["bbox_regression"]


def values(boxes: Tensor, scores: Tensor, labels: Tensor) -> list[Tensor]:
    keep: Tensor = ops.batched_nms(boxes, scores, labels, 0.5)
    focal = ops.sigmoid_focal_loss(scores, torch.ones_like(scores), reduction="sum")
    same: Tensor = torchvision.box_iou(boxes, boxes) - reference.box_iou(boxes, boxes)
    kept, indices = mmcv.nms(boxes, scores, 0.5)
    return [keep, focal, same, kept, indices, fvcore.sigmoid_focal_loss(scores, torch.ones_like(scores))]


def main() -> None:
    detector = Detector(num_classes=3).eval()
    loaded: LoadReport = retinanet_fast.load_weights(detector.model, detector.model.state_dict())
    images = [torch.rand(3, 48, 64)]
    detections: list[dict[str, Tensor]] = detector.model(images)
    grid = detector.grid((64, 64))
    logits = [torch.zeros(1, 9, 8, 8, requires_grad=True), torch.zeros(1, 9, 4, 4)]
    deltas = [torch.zeros(1, 12, 8, 8), torch.zeros(1, 12, 4, 4)]
    torch.autograd.grad(detector.loss(logits, deltas, grid), logits[:1])
    boxes = grid.boxes()
    found = values(boxes, torch.rand(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64))
    same: RetinaNet = retinanet_fast.accelerate(detector.model)
    said: Report = report(same)
    print(loaded, said, len(detections), len(found), len(detector.detect(logits, deltas, grid)))
    print(retinanet_fast.build_info()["torch"], retinanet_fast.__version__)


if __name__ == "__main__":
    main()
