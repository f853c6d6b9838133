"""The part of a batch's pixels that is padding, by how many batches' images are sorted by shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.data_scale.sizes import picture_sizes
from benchmarks.numbers import Number
from retinanet_fast.engine.data.coco import locate, read_annotations
from retinanet_fast.engine.data.order import TrainOrder
from retinanet_fast.engine.data.split import Images
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.recipe import load

GROUPS = (1, 2, 3, 4, 6, 8, 16, 32)
IMAGES = 20_000


def measure(photographs: Path | None = None) -> Iterator[Number]:
    """Of the recipe ``coco``: 16 images at 800 px.

    Args:
        photographs: a COCO-format data set of real photographs, whose sizes are drawn from too.
    """
    generator = np.random.default_rng(0)
    distributions = {"generated sizes": picture_sizes(generator, IMAGES)}
    if photographs is not None:
        known = sizes_of(photographs)
        of = f"sizes of {len(known)} photographs"
        distributions[of] = known[generator.integers(len(known), size=IMAGES)]
    recipe = load("coco")
    for name, sizes in distributions.items():
        images = Images.of((i, "", w, h) for i, (w, h) in enumerate(sizes.tolist()))
        for groups in GROUPS:
            waste = TrainOrder(images, recipe.replace(aspect_groups=groups)).padding()
            chosen = ", the recipe's" if groups == recipe.aspect_groups else ""
            yield Number(f"order/padding, aspect_groups {groups}", waste, "%", f"{name}{chosen}")


def sizes_of(data: Path) -> np.ndarray:
    """``[N, 2]``: widths and heights of all images of a data set's train and val."""
    found = [locate(data, split) for split in ("train", "val")]
    splits = [read_annotations(at.annotations, Problems(skip=False)) for at in found if at is not None]
    return np.concatenate([split.images.sizes for split in splits])
