"""Checks of a model's targets: shapes alone, since ``ops.retinanet_loss`` looks at the values, on their device."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from retinanet_fast.nn.transform import Images, Targets

__all__ = ["Targets", "check_targets"]


def check_targets(targets: Targets | None, images: Images) -> Targets:
    """The targets, one dict per image or one of padded boxes for all.

    Raises:
        ValueError: no targets, another number of them than of images, missing entries or wrong shapes.
    """
    if targets is None:
        raise ValueError("RetinaNet: expected targets in training mode, got None; call .eval() to detect")
    num_images = images.shape[0] if isinstance(images, Tensor) else len(images)
    if isinstance(targets, Mapping):
        _check_padded(targets, num_images)
        return targets
    if len(targets) != num_images:
        raise ValueError(f"RetinaNet: expected {num_images} targets, one per image, got {len(targets)}")
    for index, target in enumerate(targets):
        if not {"boxes", "labels"} <= target.keys():
            raise ValueError(f"RetinaNet: expected boxes and labels in target {index}, got {sorted(target)}")
        boxes, labels = target["boxes"], target["labels"]
        if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
            found = list(boxes.shape) if isinstance(boxes, Tensor) else type(boxes).__name__
            raise ValueError(f"RetinaNet: expected boxes [N, 4] in target {index}, got {found}")
        if labels.shape != boxes.shape[:1]:
            raise ValueError(
                f"RetinaNet: expected labels [{len(boxes)}] in target {index}, got {list(labels.shape)}"
            )
    return targets


def _check_padded(targets: Mapping[str, Tensor], num_images: int) -> None:
    if not {"boxes", "labels"} <= targets.keys():
        raise ValueError(f"RetinaNet: expected boxes and labels in the padded targets, got {sorted(targets)}")
    boxes, labels, counts = targets["boxes"], targets["labels"], targets.get("counts")
    if boxes.dim() != 3 or boxes.shape[0] != num_images or boxes.shape[2] != 4:
        raise ValueError(f"RetinaNet: expected padded boxes [{num_images}, G, 4], got {list(boxes.shape)}")
    if labels.shape != boxes.shape[:2]:
        raise ValueError(
            f"RetinaNet: expected padded labels {list(boxes.shape[:2])}, got {list(labels.shape)}"
        )
    if counts is not None and counts.shape != boxes.shape[:1]:
        raise ValueError(f"RetinaNet: expected counts [{num_images}], got {list(counts.shape)}")
