"""The demo: renders or takes a data set, trains, evaluates, draws, times the ops, and writes it all on one page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from retinanet_fast.engine.data.coco import Category, Split
from retinanet_fast.engine.data.dataset import category_ids, read_image, to_model
from retinanet_fast.engine.data.rendered import RenderOptions, render_data_set
from retinanet_fast.engine.environment import describe
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.detect import run_batch
from retinanet_fast.engine.precision import resolve
from retinanet_fast.engine.prediction.draw import Label, draw_boxes, save_picture
from retinanet_fast.engine.prediction.predict import picture_labels, to_picture
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.reporting.report import Report
from retinanet_fast.engine.reporting.timing import OpTiming, table, time_ops
from retinanet_fast.engine.training.train import Run, train

PICTURES = 12
# Only what the model is fairly sure of is drawn.
SCORE = 0.4
# Width in pixels of one half of a picture on the page.
PICTURE_WIDTH = 340


@dataclass
class Demo:
    """What a demo run works on and where it writes."""

    recipe: Recipe
    train_split: Split
    val_split: Split
    out: Path
    device: torch.device
    problems: Problems
    rendered: RenderOptions | None
    started: float
    say: Callable[[str], None] = print


def render(folder: Path, options: RenderOptions, say: Callable[[str], None] = print) -> None:
    """Render the demo's own data set, unless an earlier run with the same options has left it in the folder."""
    note = folder / "rendered.txt"
    if note.is_file() and note.read_text() == repr(options):
        say(f"data: {folder}, rendered before")
        return
    say(f"data: render {options.train} + {options.val} images of {options.size} px into {folder}")
    render_data_set(folder, options)
    note.write_text(repr(options))


def run_demo(demo: Demo) -> Path:
    """Run the whole demo; returns the path of its page."""
    run = Run(demo.recipe, demo.train_split, demo.val_split, demo.out, demo.device, demo.problems, demo.say)
    started = time.perf_counter()
    model = train(run)
    training = time.perf_counter() - started
    assert run.evaluation is not None
    demo.say(run.evaluation.table())
    pictures = draw_pictures(demo, model)
    demo.say("each op beside plain PyTorch (retinanet_fast.reference), not torchvision:")
    timings = time_ops(demo.device)
    demo.say(table(timings))
    page = demo.out / "report.html"
    _report(demo, run, training, pictures, timings).write(page)
    return page


def draw_pictures(demo: Demo, model: nn.Module) -> list[Path]:
    """Pictures of the first held-out images, with the truth on the left and the detections on the right."""
    categories = demo.train_split.categories
    index_of = {
        id: label for label, id in enumerate(category_ids(categories, demo.val_split)) if id is not None
    }
    model.eval()
    dtype = resolve(demo.recipe.precision, demo.device)
    paths = []
    for entry in demo.val_split.images[:PICTURES]:
        image = read_image(entry.path)
        output = run_batch(model, to_model([image], demo.device), dtype)[0]
        truth = [
            Label(
                (box.x, box.y, box.x + box.width, box.y + box.height),
                categories[index_of[box.category_id]].name,
                index_of[box.category_id],
            )
            for box in demo.val_split.boxes.get(entry.id, [])
        ]
        path = demo.out / "pictures" / f"{entry.id:06d}.jpg"
        save_picture(_side_by_side(to_picture(image), truth, picture_labels(output, categories, SCORE)), path)
        paths.append(path)
    return paths


def _side_by_side(picture: Image.Image, truth: list[Label], found: list[Label]) -> Image.Image:
    scale = PICTURE_WIDTH / picture.width
    halves = [draw_boxes(picture, labels, scale) for labels in (truth, found)]
    gap = 6
    result = Image.new("RGB", (2 * halves[0].width + gap, halves[0].height), "white")
    result.paste(halves[0], (0, 0))
    result.paste(halves[1], (halves[0].width + gap, 0))
    return result


def _report(demo: Demo, run: Run, training: float, pictures: list[Path], timings: list[OpTiming]) -> Report:
    assert run.evaluation is not None
    numbers, last = run.evaluation.numbers, run.history[-1]
    seconds = time.perf_counter() - demo.started
    source = "its own rendered images" if demo.rendered else str(demo.train_split.annotations.parent.parent)
    return Report(
        title="RetinaNet, trained from scratch" + (" in minutes" if seconds < 600 else ""),
        summary=(
            f"A {_model_name(demo.recipe)} with the fused ops of retinanet_fast, trained on {source}: "
            f"{len(run.train_split.images)} images, {run.train_split.count_boxes()} boxes, "
            f"{_names(run.train_split.categories)}. No pretrained weights."
            if not demo.recipe.init
            else f"A {_model_name(demo.recipe)} with the fused ops of retinanet_fast, trained on {source}, "
            f"starting from {demo.recipe.init}."
        ),
        figures=[
            (f"{numbers['AP50']:.3f}", "AP50, held-out images"),
            (f"{numbers['AP']:.3f}", "AP, IoU 0.50 to 0.95"),
            (_minutes(seconds), "minutes in all"),
            (_minutes(training), "minutes of training and evaluation"),
            (f"{last['images_per_second']:.1f}", "images/s, training"),
            (f"{last['eval_images_per_second']:.1f}", "images/s, evaluating"),
        ],
        pictures=pictures,
        score=SCORE,
        plots=[run.out / "loss.png", run.out / "ap.png"],
        evaluation=run.evaluation,
        evaluation_note=(
            f"By pycocotools on {len(demo.val_split.images[: demo.recipe.eval_images or None])} held-out images "
            f"of {demo.val_split.annotations.name}, after the last epoch."
        ),
        timings=timings,
        environment=describe(),
        recipe=demo.recipe.to_toml(),
    )


def _model_name(recipe: Recipe) -> str:
    return f"{recipe.arch} feature-pyramid RetinaNet"


def _names(categories: list[Category]) -> str:
    names = [category.name for category in categories]
    return ", ".join(names) if len(names) <= 5 else f"{len(names)} categories"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
