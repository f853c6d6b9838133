"""The images of a step, or of a share of one, as the model takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from retinanet_fast.engine.data.augment import Augmented
from retinanet_fast.nn import BatchSizes, PackedImages, pack_images, pad_targets
from retinanet_fast.nn.batch_sizes import padded_size


@dataclass
class Batch:
    """A share of a step's images.

    ``model(to_model(batch.images, device), batch.targets, batch.sizes)`` gives its losses, which count ``weight``
    times: the sum over a step's shares is then the mean over its images, whatever the number of shares.
    """

    images: list[Tensor]  # [3, H, W] uint8 each, RGB: augmented, not yet resized; not to be changed in place
    targets: dict[str, Tensor]  # padded: boxes [B, G, 4] float32, labels [B, G] int64, counts [B] int64
    sizes: BatchSizes  # what each image is resized to, and what the batch is padded to
    image_ids: list[int]
    weight: float = 1.0  # the share's part of the step's images; 0 where it is empty and one stands in
    messages: list[str] = field(default_factory=list)  # images that could not be read and were replaced
    packed: PackedImages | None = None  # the images in one tensor, of which `images` are then parts

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        return self.targets["boxes"].device

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device; from pinned memory the copies do not wait."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pack(self) -> Batch:
        """The same batch with its images in one tensor, which a GPU takes in one copy and resizes at once."""
        return self._with_packed(pack_images(self.images, self.sizes), self.targets)

    def pin_memory(self) -> Batch:
        """The same batch, packed, in page-locked memory; called by the loader where batches go to a GPU."""
        packed = self if self.packed is not None else self.pack()
        return packed._each(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until what ``stream`` has been told so far is done."""
        tensors = [*(self.images if self.packed is None else self.packed.tensors), *self.targets.values()]
        for tensor in tensors:
            tensor.record_stream(stream)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        targets = {name: change(tensor) for name, tensor in self.targets.items()}
        if self.packed is not None:
            return self._with_packed(self.packed.each(change), targets)
        return replace(self, images=[change(image) for image in self.images], targets=targets)

    def _with_packed(self, packed: PackedImages, targets: dict[str, Tensor]) -> Batch:
        images = [
            row[:, : image.shape[1], : image.shape[2]] for row, image in zip(packed.pixels, self.images)
        ]
        return replace(self, images=images, targets=targets, packed=packed)


def collate(samples: Sequence[Augmented], size_divisible: int, rows: int = 1) -> Batch:
    """A batch of augmented samples.

    Args:
        size_divisible: sides of the padded batch are multiples of this.
        rows: the number of targets per image is padded to a multiple of this.
    """
    targets = pad_targets([{"boxes": sample.boxes, "labels": sample.labels} for sample in samples], rows)
    resized = tuple(sample.resized for sample in samples)
    padded = padded_size([sample.room for sample in samples], size_divisible)
    return Batch(
        images=[sample.image for sample in samples],
        targets=targets,
        sizes=BatchSizes(resized, padded),
        image_ids=[sample.image_id for sample in samples],
    )
