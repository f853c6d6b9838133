"""Keeps decoded images in memory, so that later epochs of a small data set need not decode them again."""

from __future__ import annotations

from torch import Tensor

# Bytes of decoded images that a process keeps: some 280 images of 640x480.
BUDGET = 256 * 2**20


class ImageCache:
    """Images by id, as many as fit into a budget of bytes.

    Once it is full nothing is thrown out for another: each epoch takes every image once, in another order, so that
    any set of kept images is as good as any other.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.left = budget
        self._images: dict[int, Tensor] = {}

    def get(self, image_id: int) -> Tensor | None:
        """The image, which is not to be changed in place; None where it is not kept."""
        return self._images.get(image_id)

    def put(self, image_id: int, image: Tensor) -> None:
        """Keep an image if there is room."""
        if image_id not in self._images and image.nbytes <= self.left:
            self.left -= image.nbytes
            self._images[image_id] = image
