"""Exports a checkpoint's model, and checks the file on pictures."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet_fast.engine.data.dataset import to_model
from retinanet_fast.engine.data.decode import Decoding
from retinanet_fast.engine.data.rendered import RenderOptions, render_image
from retinanet_fast.engine.errors import EXPORT_PACKAGES, CheckError, InputError, one_line
from retinanet_fast.engine.prediction.pictures import Picture
from retinanet_fast.engine.prediction.reading import Reader
from retinanet_fast.export import Agreement, compare, export_model, load_exported
from retinanet_fast.models import BatchDetector, RetinaNet

# Of the pictures that stand in where none are given: no square, and no multiple of a feature's stride.
RENDERED = ((250, 210), (190, 300))


@dataclass(frozen=True)
class ExportOptions:
    """What to write.

    Attributes:
        format: one of ``export.FORMATS``.
        size: (height, width) of the images, or None for any.
        batch: images at a time, or None for any number.
    """

    format: str
    size: tuple[int, int] | None = None
    batch: int | None = None


def parse_size(word: str) -> tuple[int, int] | None:
    """(height, width) from ``480x640``, None from ``dynamic``.

    Raises:
        InputError: another word.
    """
    if word == "dynamic":
        return None
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", word)
    if found is None:
        raise InputError(f"--size: expected HEIGHTxWIDTH, such as 480x640, or dynamic, got {word!r}")
    return int(found[1]), int(found[2])


def export_checked(
    model: RetinaNet, file: Path, options: ExportOptions, pictures: list[Picture]
) -> Agreement:
    """Write ``file``, load it anew, and compare its detections with the model's.

    Until they agree it lies in a folder beside, so that what ``file`` held before stays until then.

    Args:
        pictures: rendered ones where none are given.

    Raises:
        InputError: a picture that cannot be read, a model that the format cannot express, or nothing to compare.
        CheckError: detections that differ by more than ``export.BOX_BOUND`` or ``export.SCORE_BOUND``.
        ImportError: a package of the extra ``export`` is missing.
    """
    for package in EXPORT_PACKAGES if options.format == "onnx" else ():
        importlib.import_module(package)  # before the minutes that exporting may take
    reader = Reader(Decoding())
    images = [reader.decode(picture).image for picture in pictures]
    images = images or [_render(i, size) for i, size in enumerate(RENDERED)]
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export_") as folder:
        new = Path(folder) / file.name
        try:
            export_model(model, new, options.format, size=options.size, batch=options.batch)
        except (ValueError, NotImplementedError) as error:
            message = one_line(error).replace(str(new), str(file))
            raise InputError(f"{file}: not exported: {message}") from error
        agreement = check(model, new, options, images)
        if not agreement.within_bounds:
            raise CheckError(
                f"{file}: not written, since it does not detect what the model does: {agreement}"
            )
        os.replace(new, file)
    if agreement.pairs == 0:
        found = "the given pictures" if pictures else "rendered pictures"
        raise InputError(
            f"{file}: written but not checked: the model detects nothing on {found}; "
            "name pictures of its objects with --check"
        )
    return agreement


def check(model: RetinaNet, file: Path, options: ExportOptions, images: list[Tensor]) -> Agreement:
    """How far the file's detections on uint8 images [3, H, W] are from the model's."""
    device = next(model.parameters()).device
    run, detector = load_exported(file, options.format), BatchDetector(model.eval())
    agreement = Agreement()
    with torch.inference_mode():
        for image in to_model(images, device):
            if options.size is not None:
                image = F.interpolate(image[None], options.size, mode="bilinear")[0]
            # Mirrored images beside it, so that a batch holds different ones.
            mirrored = [image, image.flip(-1), image.flip(-2), image.flip(-1, -2)]
            batch = torch.stack([mirrored[index % 4] for index in range(options.batch or 2)])
            expected = detector(batch).to("cpu")
            agreement += compare(expected, run(batch).to("cpu"), model.score_thresh)
    return agreement


def _render(seed: int, size: tuple[int, int]) -> Tensor:
    picture, _ = render_image(np.random.default_rng(seed), RenderOptions(size=max(size)))
    return torch.from_numpy(np.array(picture)[: size[0], : size[1]]).permute(2, 0, 1).contiguous()
