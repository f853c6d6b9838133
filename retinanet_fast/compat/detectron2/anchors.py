"""detectron2's anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from retinanet_fast.compat.detectron2.structures import boxes_type
from retinanet_fast.structures import AnchorGrid


class DefaultAnchorGenerator(nn.Module):
    """``detectron2.modeling.anchor_generator.DefaultAnchorGenerator`` (arguments by name, as there; no ``cfg``).

    The anchors of a cell are ordered by size, then by ratio, and not rounded; cell ``(y, x)`` of a level has its centre
    at ``((x + offset) * stride, (y + offset) * stride)``, whatever the image's size. (torchvision's, in
    ``retinanet_fast.nn.AnchorGenerator``, are ordered by ratio, rounded, and ``image // grid`` pixels apart.)
    """

    box_dim = 4

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]] | Sequence[float],
        aspect_ratios: Sequence[Sequence[float]] | Sequence[float],
        strides: Sequence[int],
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0.0 <= offset < 1.0:
            raise ValueError(f"DefaultAnchorGenerator: expected offset in [0, 1), got {offset}")
        self.strides = strides
        self.num_features = len(strides)
        self.offset = offset
        levels = zip(
            _per_level(sizes, self.num_features, "sizes"),
            _per_level(aspect_ratios, self.num_features, "aspect_ratios"),
        )
        self._cells = [f"cell_anchors_{level}" for level in range(self.num_features)]
        for name, (level_sizes, ratios) in zip(self._cells, levels):
            self.register_buffer(name, self.generate_cell_anchors(level_sizes, ratios), persistent=False)

    @property
    def cell_anchors(self) -> list[Tensor]:
        """Each level's anchors around the origin, ``[A_l, 4]``."""
        return [self.get_buffer(name) for name in self._cells]

    @property
    def num_anchors(self) -> list[int]:
        """The anchors per cell of each level."""
        return [len(cells) for cells in self.cell_anchors]

    @property
    def num_cell_anchors(self) -> list[int]:
        return self.num_anchors

    def generate_cell_anchors(
        self,
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1, 2),
    ) -> Tensor:
        """``[len(sizes) * len(aspect_ratios), 4]`` float32 around the origin; a ratio is height / width."""
        sides = []
        for size in sizes:
            for ratio in aspect_ratios:
                width = math.sqrt(float(size) ** 2 / ratio)
                sides.append((width, ratio * width))
        return torch.tensor([(-w / 2.0, -h / 2.0, w / 2.0, h / 2.0) for w, h in sides], dtype=torch.float32)

    def forward(self, features: Sequence[Tensor]) -> list[Any]:
        """Args:
            features: one map ``[..., H, W]`` per level; only shapes are read.

        Returns:
            One ``Boxes`` ``[H * W * A, 4]`` per level, ordered by y, x, anchor: detectron2's class where it is
            installed, else :class:`Boxes`.
        """
        self._check_levels(features)
        wrap = boxes_type()
        levels = zip(features, self.strides, self.cell_anchors)
        return [wrap(_level_anchors(f.shape[-2:], stride, self.offset, cells)) for f, stride, cells in levels]

    def grid(self, features: Sequence[Tensor]) -> AnchorGrid:
        """The same anchors as an :class:`AnchorGrid`, for ``ops.retinanet_loss`` and ``ops.retinanet_detect``.

        The offset goes into the base anchors, so that an anchor may differ from ``forward``'s in its last bit. Every
        level must have as many anchors per cell.
        """
        self._check_levels(features)
        if len(set(self.num_anchors)) != 1:
            raise ValueError(
                f"DefaultAnchorGenerator: expected as many anchors per cell on each level, got {self.num_anchors}; "
                "an AnchorGrid needs that"
            )
        base = [cells + self.offset * stride for cells, stride in zip(self.cell_anchors, self.strides)]
        strides = tuple((int(stride), int(stride)) for stride in self.strides)
        return AnchorGrid(torch.stack(base), strides, tuple((f.shape[-2], f.shape[-1]) for f in features))

    def _check_levels(self, features: Sequence[Tensor]) -> None:
        if len(features) != self.num_features:
            raise ValueError(
                f"DefaultAnchorGenerator: expected {self.num_features} features, got {len(features)}"
            )


def _per_level(values: Any, levels: int, name: str) -> list[Any]:
    """One sequence of values, alone or in a list, is every level's."""
    if not isinstance(values, Sequence) or not values:
        raise ValueError(f"DefaultAnchorGenerator: expected a list of {name}, got {values!r}")
    if not isinstance(values[0], Sequence):
        return [values] * levels
    if len(values) == 1:
        return list(values) * levels
    if len(values) != levels:
        raise ValueError(f"DefaultAnchorGenerator: expected {name} for {levels} levels, got {len(values)}")
    return list(values)


def _level_anchors(size: Sequence[int], stride: int, offset: float, cells: Tensor) -> Tensor:
    # Made on the CPU, as detectron2 does: a GPU rounds some offsets differently.
    y, x = (
        torch.arange(offset * stride, n * stride, step=stride, dtype=torch.float32, device="cpu").to(
            cells.device
        )
        for n in size
    )
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=-1)
    return (shifts[:, :, None] + cells).reshape(-1, 4)
