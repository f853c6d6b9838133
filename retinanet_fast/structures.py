"""Containers of the ops, their eager twins and the models. Nothing here needs the built extension."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import torch
from torch import Tensor

__all__ = ["AnchorGrid", "Detections"]


class AnchorGrid(NamedTuple):
    """The anchors of a feature pyramid, kept as the few numbers that generate them.

    Anchor ``k`` of cell ``(y, x)`` on level ``l`` is
    ``base_anchors[l, k] + (x * stride_x, y * stride_y, x * stride_x, y * stride_y)``, xyxy in pixels.
    """

    base_anchors: Tensor  # [L, K, 4] float32, centred at the origin
    strides: tuple[tuple[int, int], ...]  # L pairs (stride_y, stride_x), pixels
    grid_sizes: tuple[tuple[int, int], ...]  # L pairs (height, width), cells

    @property
    def num_anchors(self) -> int:
        """A, the number of anchors over all levels."""
        return self.base_anchors.shape[1] * sum(height * width for height, width in self.grid_sizes)

    def to(self, device: torch.device | str) -> AnchorGrid:
        """The same grid with its base anchors on ``device``."""
        return AnchorGrid(self.base_anchors.to(device), self.strides, self.grid_sizes)

    def boxes(self) -> Tensor:
        """Every anchor as ``[A, 4]`` float32, ordered by level, y, x, k (torchvision's order)."""
        levels = zip(self.base_anchors, self.strides, self.grid_sizes, strict=True)
        return torch.cat([_level_boxes(base, stride, size) for base, stride, size in levels])


def _level_boxes(base: Tensor, stride: tuple[int, int], size: tuple[int, int]) -> Tensor:
    y = torch.arange(size[0], device=base.device) * stride[0]
    x = torch.arange(size[1], device=base.device) * stride[1]
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=-1)
    return (shifts[:, :, None, :] + base).reshape(-1, 4)


def size_tensor(sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """(height, width) pairs as ``[B, 2]`` int64: on the host, where the kernels read them without a copy that would
    wait, or in a traced program, which knows symbols alone, on ``device``."""
    if not torch.compiler.is_compiling():
        return torch.tensor([list(size) for size in sizes], dtype=torch.int64, device="cpu").reshape(-1, 2)
    rows = [
        torch.stack([torch.full((), n, dtype=torch.int64, device=device) for n in size]) for size in sizes
    ]
    return torch.stack(rows)


@dataclass(eq=False)
class Detections:
    """The detections of a batch of images at fixed size: image ``b`` has ``counts[b]`` of them, best first.

    The rows from ``counts[b]`` on are padding: boxes and scores 0, labels -1. As a sequence it is one of images:
    ``len(detections)`` is B, and ``detections[b]``, and each item of an iteration, is image ``b``'s dict of
    ``boxes``, ``scores`` and ``labels`` without padding, as torchvision's detection models return it. A slice is the
    ``Detections`` of those images. ``unpack()`` is the list of all the dicts. Indexing by a number, iteration and
    ``unpack()`` read ``counts`` on the host, so on CUDA they synchronise.
    """

    boxes: Tensor  # [B, D, 4] float32, xyxy in pixels
    scores: Tensor  # [B, D] float32, in descending order
    labels: Tensor  # [B, D] int64
    counts: Tensor  # [B] int64

    def __len__(self) -> int:
        return self.counts.shape[0]

    @overload
    def __getitem__(self, image: int) -> dict[str, Tensor]: ...
    @overload
    def __getitem__(self, image: slice) -> Detections: ...
    def __getitem__(self, image: int | slice) -> dict[str, Tensor] | Detections:
        if isinstance(image, slice):
            return Detections(self.boxes[image], self.scores[image], self.labels[image], self.counts[image])
        index = operator.index(image)
        if not -len(self) <= index < len(self):
            raise IndexError(f"Detections: expected an image in [0, {len(self)}), got {index}")
        return self._without_padding(index, int(self.counts[index]))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.unpack())

    def unpack(self) -> list[dict[str, Tensor]]:
        """One dict of ``boxes``, ``scores`` and ``labels`` per image, without padding."""
        return [self._without_padding(image, count) for image, count in enumerate(self.counts.tolist())]

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on ``device``."""
        fields = (self.boxes, self.scores, self.labels, self.counts)
        return Detections(*(tensor.to(device) for tensor in fields))

    def _without_padding(self, image: int, count: int) -> dict[str, Tensor]:
        return {
            "boxes": self.boxes[image].narrow(0, 0, count),
            "scores": self.scores[image].narrow(0, 0, count),
            "labels": self.labels[image].narrow(0, 0, count),
        }


# As a pytree node it can be returned from compiled and exported programs; the name is how a saved program finds it.
torch.export.register_dataclass(Detections, serialized_type_name="retinanet_fast.Detections")
