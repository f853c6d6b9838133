"""Large JPEGs decoded at 1/2, 1/4 or 1/8 of their size: how much faster, and what it does to the model's input."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.data_scale.pictures import jpeg, picture
from benchmarks.numbers import Number
from retinanet_fast.engine.data.decode import Decoding
from retinanet_fast.engine.recipe import Recipe, load
from retinanet_fast.nn.batch_sizes import resized_size

LARGE = ((4000, 3000), (2400, 1800), (1280, 960))
ROUNDS = 7
# The model's input for the difference in pixels: photographs of 640 pixels are then decoded at 1/2 or 1/4.
SMALL_INPUT = (160, 267)


def measure(photographs: Path | None = None) -> Iterator[Number]:
    """The rates at COCO's 800 px, of rendered pictures; the difference of photographs where there are any."""
    recipe = load("coco")
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for width, height in LARGE:
            file = Path(folder) / f"{width}x{height}.jpg"
            file.write_bytes(jpeg(picture(generator, width, height)))
            yield from _rate(file, recipe)
        files = [Path(folder) / f"{width}x{height}.jpg" for width, height in LARGE]
        if photographs is not None:
            files = sorted(photographs.rglob("*.jpg"))
        of = f"{len(files)} {'photographs' if photographs is not None else 'rendered pictures'} at {SMALL_INPUT[0]} px"
        yield from _difference(files, of)


def _rate(file: Path, recipe: Recipe) -> Iterator[Number]:
    scale = Decoding.of(recipe)(file).scale
    seconds = [_seconds(Decoding.of(recipe.replace(jpeg_draft=draft)), file) for draft in (False, True)]
    about = f"{recipe.min_size[0]} px: decoded at 1/{scale}; whole {1 / seconds[0]:.3g} images/s"
    yield Number(f"draft/{file.stem}", 1 / seconds[1], "images/s", f"{about}, one core")
    yield Number(f"draft/{file.stem}, times the rate", seconds[0] / seconds[1], "x")


def _seconds(decoding: Decoding, file: Path) -> float:
    """Of a processor, the median."""
    decoding(file)
    samples = []
    for _ in range(ROUNDS):
        start = time.process_time()  # on one thread; not what others on the machine take
        decoding(file)
        samples.append(time.process_time() - start)
    return statistics.median(samples)


def _difference(files: list[Path], of: str) -> Iterator[Number]:
    """In levels of 255, of the model's input, which is resized without antialiasing from what is decoded."""
    recipe = Recipe(min_size=[SMALL_INPUT[0]], max_size=SMALL_INPUT[1])
    found = np.array([difference(file, recipe) for file in files])
    between, draft, whole = found.mean(axis=0).tolist()
    yield Number("draft/difference to a whole decode", between, "levels", f"mean absolute; {of}")
    yield Number(
        "draft/whole decode to antialiased", whole, "levels", "what decoding whole loses in the resize"
    )
    yield Number(
        "draft/draft decode to antialiased",
        draft,
        "levels",
        "an input further from the antialiased picture than before would be a loss",
        limit=whole,
    )


def difference(file: Path, recipe: Recipe) -> tuple[float, float, float]:
    """Mean absolute differences of a picture as the model takes it: draft to whole decode, then each of the two to the
    picture that is resized with antialiasing."""
    whole = Decoding.of(recipe.replace(jpeg_draft=False))(file)
    draft = Decoding.of(recipe.replace(jpeg_draft=True))(file)
    size = resized_size(whole.size[1], whole.size[0], recipe.min_size[0], recipe.max_size)
    a, b, true = _resized(draft.image, size), _resized(whole.image, size), _resized(whole.image, size, True)
    return tuple((x - y).abs().mean().item() for x, y in ((a, b), (a, true), (b, true)))  # type: ignore[return-value]


def _resized(image: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    return F.interpolate(image[None].to(torch.float32), size, mode="bilinear", antialias=antialias)
