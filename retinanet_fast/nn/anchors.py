"""Anchors of a feature pyramid, with torchvision's shapes, rounding, order and strides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from retinanet_fast.structures import AnchorGrid

__all__ = ["AnchorGenerator", "retinanet_anchor_generator"]


class AnchorGenerator(nn.Module):
    """The anchors of each level: every aspect ratio (height / width) at every size (pixels).

    ``sizes[l]`` and ``aspect_ratios[l]`` belong to level ``l``. A flat sequence of sizes has one size per level, and
    a flat sequence of ratios is used on every level. An anchor of size ``s`` and ratio ``r`` is ``s / sqrt(r)`` wide
    and ``s * sqrt(r)`` high, with its corners rounded to whole pixels. The anchors of a cell are ordered by ratio,
    then by size.

    Cells are ``image // feature`` pixels apart, as in torchvision, or as far as ``strides`` says, as in detectron2 and
    mmdetection, which do not round the corners either (``round_corners=False``).

    Anchors stay float32 when the model is cast: in bfloat16 they would be up to 4 pixels off at 1024.
    """

    base_anchors: Tensor  # [L, K, 4] float32

    def __init__(
        self,
        sizes: Sequence[Sequence[float]] | Sequence[float] = ((128, 256, 512),),
        aspect_ratios: Sequence[Sequence[float]] | Sequence[float] = (0.5, 1.0, 2.0),
        *,
        round_corners: bool = True,
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.round_corners = round_corners
        self.strides = None if strides is None else tuple(strides)
        self.sizes = [tuple(s) if isinstance(s, Sequence) else (s,) for s in sizes]
        self.aspect_ratios = _ratios_per_level(aspect_ratios, len(self.sizes))
        if self.strides is not None and len(self.strides) != len(self.sizes):
            raise ValueError(
                f"AnchorGenerator: expected strides for {len(self.sizes)} levels, got {len(self.strides)}"
            )
        counts = self.num_anchors_per_location()
        if len(set(counts)) != 1:
            raise ValueError(
                f"AnchorGenerator: expected as many anchors per cell on each level, got {counts}; "
                "give every level the same number of sizes times aspect ratios"
            )
        self.register_buffer("base_anchors", self._make_base_anchors(), persistent=False)

    @property
    def is_exact(self) -> bool:
        """Whether the anchors are detectron2's and mmdetection's: not rounded, at fixed strides."""
        return not self.round_corners and self.strides is not None

    def num_anchors_per_location(self) -> list[int]:
        """K of each level."""
        return [
            len(sizes) * len(ratios) for sizes, ratios in zip(self.sizes, self.aspect_ratios, strict=True)
        ]

    if TYPE_CHECKING:  # nn.Module's returns Any

        def __call__(
            self, image_size: Sequence[int], feature_sizes: Sequence[Sequence[int]]
        ) -> AnchorGrid: ...

    def forward(self, image_size: Sequence[int], feature_sizes: Sequence[Sequence[int]]) -> AnchorGrid:
        """The anchors of a padded batch.

        The first cell is at the upper left corner.

        Args:
            image_size: (height, width) of the padded batch.
            feature_sizes: (height, width) of each level.
        """
        if len(feature_sizes) != len(self.sizes):
            raise ValueError(f"AnchorGenerator: expected {len(self.sizes)} levels, got {len(feature_sizes)}")
        height, width = image_size
        # No int(): while a program is traced the sizes are symbols, and int() would make them constants.
        grid_sizes = tuple((h, w) for h, w in feature_sizes)
        if self.strides is None:
            strides = tuple((height // h, width // w) for h, w in grid_sizes)
        else:
            strides = tuple((stride, stride) for stride in self.strides)
        return AnchorGrid(self.base_anchors, strides, grid_sizes)

    def _make_base_anchors(self) -> Tensor:
        levels = zip(self.sizes, self.aspect_ratios, strict=True)
        boxes = torch.stack([_centred_boxes(sizes, ratios) for sizes, ratios in levels])
        return boxes.round() if self.round_corners else boxes

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AnchorGenerator:
        super()._apply(fn, recurse)
        # Follow the module to its device, but not to its dtype.
        self.base_anchors = self._make_base_anchors().to(self.base_anchors.device)
        return self


def retinanet_anchor_generator(smallest: int = 32, *, exact: bool = False) -> AnchorGenerator:
    """RetinaNet's anchors on P3 to P7: sizes x, 2^(1/3) x and 2^(2/3) x with x = ``smallest`` * 2^level.

    Sizes and corners are rounded as torchvision rounds them; ``exact`` leaves both as they are and has the strides 8 to
    128, as detectron2 and mmdetection do.
    """
    octaves = [smallest * 2**level for level in range(5)]
    scales = [2 ** (third / 3) for third in range(3)]
    if exact:
        strides = [8 * 2**level for level in range(5)]
        sizes = [[x * scale for scale in scales] for x in octaves]
        return AnchorGenerator(sizes, (0.5, 1.0, 2.0), round_corners=False, strides=strides)
    return AnchorGenerator([[int(x * scale) for scale in scales] for x in octaves], (0.5, 1.0, 2.0))


def _ratios_per_level(
    ratios: Sequence[Sequence[float]] | Sequence[float], num_levels: int
) -> list[tuple[float, ...]]:
    nested = [tuple(r) for r in ratios if isinstance(r, Sequence)]
    if not nested:
        return [tuple(r for r in ratios if not isinstance(r, Sequence))] * num_levels
    if len(nested) != num_levels:
        raise ValueError(
            f"AnchorGenerator: expected aspect ratios for {num_levels} levels, got {len(nested)}"
        )
    return nested


def _centred_boxes(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    size = torch.tensor(sizes, dtype=torch.float32, device="cpu")
    height_scale = torch.tensor(aspect_ratios, dtype=torch.float32, device="cpu").sqrt()
    width = (1 / height_scale)[:, None] * size
    height = height_scale[:, None] * size
    return torch.stack((-width, -height, width, height), dim=-1).reshape(-1, 4) / 2
