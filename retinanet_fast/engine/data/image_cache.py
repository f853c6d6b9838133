"""Keeps decoded images in memory, so that later epochs of a small data set need not decode them again."""

from __future__ import annotations

from retinanet_fast.engine.data.decode import Decoded

# Bytes of decoded images that a process keeps: some 280 images of 640x480.
BUDGET = 256 * 2**20


class ImageCache:
    """Images by id, as many as fit into a budget of bytes.

    Once it is full nothing is thrown out for another: each epoch takes every image once, in another order, so that
    any set of kept images is as good as any other.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.left = budget
        self._images: dict[int, Decoded] = {}

    def get(self, image_id: int) -> Decoded | None:
        """The image, whose pixels are not to be changed in place; None where it is not kept."""
        return self._images.get(image_id)

    def put(self, image_id: int, decoded: Decoded) -> None:
        """Keep an image if there is room."""
        if image_id not in self._images and decoded.image.nbytes <= self.left:
            self.left -= decoded.image.nbytes
            self._images[image_id] = decoded
