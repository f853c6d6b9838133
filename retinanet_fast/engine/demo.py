"""The demo: renders or takes a data set, trains, evaluates, draws, times the ops, and writes it all on one page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from retinanet_fast.engine.data.rendered import RenderOptions, render_data_set
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.reporting.hooks import choose_tensorboard, reporting_hooks
from retinanet_fast.engine.reporting.page import Page, minutes
from retinanet_fast.engine.reporting.timing import table, time_ops
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.train import train


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
    """Run the whole demo; returns the path of its page, which is that of its run with the ops' times."""
    run = Run(demo.recipe, demo.train_split, demo.val_split, demo.out, demo.device, demo.problems, demo.say)
    folder = RunFolder(demo.out)
    page = Page(folder, "its own rendered images" if demo.rendered else "")
    started = time.perf_counter()
    train(run, hooks=reporting_hooks(folder, choose_tensorboard(None, demo.say), page))
    training = time.perf_counter() - started
    assert run.evaluation is not None
    demo.say(run.evaluation.table())
    report = page.report(run)
    demo.say("each op beside plain PyTorch (retinanet_fast.reference), not torchvision:")
    report.timings = time_ops(demo.device)
    demo.say(table(report.timings))
    seconds = time.perf_counter() - demo.started
    report.title = " ".join(
        ["RetinaNet, trained", *["from scratch"] * (not demo.recipe.init), *["in minutes"] * (seconds < 600)]
    )
    times = [(minutes(seconds), "minutes in all"), (minutes(training), "minutes of training and evaluation")]
    report.figures = [*report.figures[:2], *times, *report.figures[3:]]
    report.write(folder.page)
    return folder.page
