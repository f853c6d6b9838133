"""Detects on pictures, draws the boxes, and writes a json."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.checkpoint import Checkpoint, find, restore
from retinanet_fast.engine.data.dataset import read_image, to_model
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.errors import InputError, Problems, one_line
from retinanet_fast.engine.evaluation.detect import run_batch
from retinanet_fast.engine.evaluation.results import from_batch
from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.precision import resolve
from retinanet_fast.engine.prediction.draw import FORMATS, Label, draw_boxes, save_picture
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.reporting.progress import Progress
from retinanet_fast.models import RetinaNet


@dataclass
class Predictions:
    """How many pictures were written, how many boxes were drawn on them, and how fast."""

    pictures: int
    drawn: int
    images_per_second: float


def restore_model(state: Checkpoint, source: Path, device: torch.device) -> RetinaNet:
    """The model of a checkpoint, ready to detect.

    Raises:
        InputError: the weights are not those of the checkpoint's recipe.
    """
    model = build_model(state.recipe, len(state.categories) + 1)
    restore(model, state, find(source))
    memory_format = torch.channels_last if state.recipe.channels_last else torch.contiguous_format
    return model.to(device, memory_format=memory_format).eval()  # type: ignore[call-overload]


def list_pictures(inputs: list[Path]) -> list[Path]:
    """The given files, and the pictures in the given folders and their subfolders.

    Raises:
        InputError: a name that is neither, or a folder without pictures.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in FORMATS)
            if not found:
                raise InputError(f"{path}: no pictures in this folder ({', '.join(sorted(FORMATS))})")
            files += found
        else:
            files.append(path)
    return files


def image_ids(files: list[Path]) -> list[int]:
    """One id per picture: the number in its name, as in COCO, if all names are numbers; else its place, from 1."""
    stems = [file.stem for file in files]
    if all(stem.isdecimal() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(files) + 1))


def predict(
    model: nn.Module,
    categories: list[Category],
    recipe: Recipe,
    files: list[Path],
    out: Path,
    score: float,
    problems: Problems,
) -> Predictions:
    """Detect on each picture, write it with its boxes to ``out``, and all detections to ``out/detections.json``.

    Args:
        score: boxes below it are not drawn; the json has every detection of the model.
    """
    device = next(model.parameters()).device
    dtype = resolve(recipe.precision, device)
    results: list[dict[str, Any]] = []
    names = unique_names(files)
    _keep_inputs(files, [out / name for name in names])
    pictures = drawn = 0
    progress = Progress("predict", len(files))
    started = time.perf_counter()
    for file, image_id, name in zip(files, image_ids(files), names):
        image = _read(file, problems)
        if image is None:
            continue
        found = run_batch(model, to_model([image], device), dtype).to("cpu")
        listed = from_batch(found, [image_id], [category.id for category in categories]).to_list()
        results += [{**result, "file_name": file.name} for result in listed]
        labels = picture_labels(found[0], categories, score)
        save_picture(draw_boxes(to_picture(image), labels), out / name)
        pictures += 1
        drawn += len(labels)
        if progress.due():
            progress.draw(pictures, f"{pictures / (time.perf_counter() - started):.1f} images/s")
    progress.close()
    if pictures == 0:
        raise InputError(f"{files[0]}: no readable picture among the {len(files)} given")
    write_text(out / "detections.json", json.dumps(results, indent=0))
    return Predictions(pictures, drawn, pictures / (time.perf_counter() - started))


def picture_labels(output: dict[str, Tensor], categories: list[Category], score: float) -> list[Label]:
    """The detections to draw, the highest score last."""
    boxes, scores, labels = (output[key].tolist() for key in ("boxes", "scores", "labels"))
    rows = [row for row in zip(scores, boxes, labels) if row[0] >= score and row[2] >= 1]
    return [
        Label(tuple(box), f"{categories[label - 1].name} {value:.2f}", label - 1)
        for value, box, label in sorted(rows, key=lambda row: row[0])
    ]


def to_picture(image: Tensor) -> Image.Image:
    """A uint8 tensor [3, H, W] as a picture."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def unique_names(files: list[Path]) -> list[str]:
    """Output names: those of the files, with a number before the suffix where two are the same."""
    used: set[str] = set()
    names = []
    for file in files:
        suffix = file.suffix if file.suffix.lower() in FORMATS else ".png"
        name, number = f"{file.stem}{suffix}", 2
        while name in used:
            name, number = f"{file.stem}-{number}{suffix}", number + 1
        used.add(name)
        names.append(name)
    return names


def _keep_inputs(files: list[Path], outputs: list[Path]) -> None:
    inputs = {file.resolve() for file in files}
    for output in outputs:
        if output.resolve() in inputs:
            raise InputError(f"{output}: would be written over: choose another --out")


def _read(file: Path, problems: Problems) -> Tensor | None:
    try:
        return read_image(file)
    except FileNotFoundError:
        problems.report(f"{file}: no such picture")
    except Exception as error:  # PIL raises many kinds on a file that is not an image
        problems.report(f"{file}: not a readable image: {one_line(error)}")
    return None
