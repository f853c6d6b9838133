"""torchvision's own anchor generator and heads inside our RetinaNet. Nothing here imports torchvision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from retinanet_fast.nn import AnchorGenerator, ImageBatch
from retinanet_fast.structures import AnchorGrid

__all__ = ["anchors_of", "box_loss_of", "check_parts", "levels_of"]


def check_parts(generator: Any, head: nn.Module, box_loss: str | None) -> None:
    """Refuse parts that cannot work together, before the first image.

    Raises:
        ValueError: anchors that differ in number from level to level or from the head's, or an unknown box loss.
    """
    counts = generator.num_anchors_per_location() if hasattr(generator, "num_anchors_per_location") else []
    if len(set(counts)) > 1:
        raise ValueError(
            f"RetinaNet: expected as many anchors per cell on each level, got {counts}: the head, which all levels "
            "share, has one number; give every level the same number of sizes times aspect ratios"
        )
    for name in ("classification_head", "regression_head"):
        expected = getattr(getattr(head, name, None), "num_anchors", None)
        if counts and expected not in (None, counts[0]):
            raise ValueError(
                f"RetinaNet: expected {expected} anchors per cell, as head.{name} has, got {counts[0]}; "
                "make the head with anchor_generator.num_anchors_per_location()[0]"
            )
    loss = box_loss or box_loss_of(head).get("box_loss")
    if loss not in (None, "l1", "smooth_l1", "giou"):
        raise ValueError(f"RetinaNet: expected box_loss l1, smooth_l1 or giou, got {loss}")


def anchors_of(generator: Any, batch: ImageBatch, features: Sequence[Tensor]) -> Tensor | AnchorGrid:
    """The anchors of a batch, by the interface of whichever library's generator it is.

    Of torchvision's ``AnchorGenerator``, and of a subclass that only makes other cells, the cells are taken, in
    float32 even under autocast. A subclass that lays them out otherwise is called as torchvision calls it.

    Raises:
        ValueError: another number of levels, or anchors that differ from image to image.
    """
    image_size, sizes = batch.tensors.shape[-2:], [level.shape[-2:] for level in features]
    if isinstance(generator, AnchorGenerator) or not hasattr(generator, "cell_anchors"):
        return generator(image_size, sizes)
    kind: Any = type(generator)
    if not all(_is_torchvisions(method) for method in (kind.forward, kind.grid_anchors)):
        return _same_for_all(generator(batch, list(features)))
    if len(sizes) != len(generator.cell_anchors):
        raise ValueError(f"AnchorGenerator: expected {len(generator.cell_anchors)} levels, got {len(sizes)}")
    generator.set_cell_anchors(torch.float32, batch.tensors.device)
    strides = tuple((image_size[0] // height, image_size[1] // width) for height, width in sizes)
    grid_sizes = tuple((height, width) for height, width in sizes)
    return AnchorGrid(torch.stack(list(generator.cell_anchors)), strides, grid_sizes)


def levels_of(
    outputs: Mapping[str, Tensor | Sequence[Tensor]], features: Sequence[Tensor]
) -> dict[str, list[Tensor]]:
    """A head's outputs as lists of levels ``[B, K * C, H, W]``; torchvision's ``[B, A, C]`` is not copied for it.

    torchvision orders the rows by level, y, x and anchor, so that each level is a channels_last view of its rows.
    """
    return {
        key: _split_levels(value, features) if isinstance(value, Tensor) else list(value)
        for key, value in outputs.items()
    }


def box_loss_of(head: nn.Module) -> dict[str, Any]:
    """The box loss that torchvision's regression head carries, as options of ``ops.retinanet_loss``."""
    loss = getattr(getattr(head, "regression_head", None), "_loss_type", None)
    if loss is None:
        return {}
    # torchvision's smooth L1 turns from square to linear at 1.
    return {"box_loss": loss, **({"smooth_l1_beta": 1.0} if loss == "smooth_l1" else {})}


def _split_levels(rows: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
    cells = [level.shape[-2] * level.shape[-1] for level in features]
    batch, count, classes = rows.shape
    num_anchors, rest = divmod(count, sum(cells))
    if rest:
        raise ValueError(
            f"RetinaNet: expected head outputs with a multiple of {sum(cells)} anchors, one for each cell of the "
            f"levels, got {list(rows.shape)}"
        )
    levels = rows.split([num_anchors * n for n in cells], dim=1)
    return [
        level.view(batch, *feature.shape[-2:], num_anchors * classes).permute(0, 3, 1, 2)
        for level, feature in zip(levels, features, strict=True)
    ]


def _same_for_all(anchors: Sequence[Tensor]) -> Tensor:
    if any(other.shape != anchors[0].shape or not torch.equal(other, anchors[0]) for other in anchors[1:]):
        raise ValueError("RetinaNet: expected the same anchors for all images of a batch, got different ones")
    return anchors[0]


def _is_torchvisions(method: Any) -> bool:
    return str(getattr(method, "__module__", "")).startswith("torchvision.")
