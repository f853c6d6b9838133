"""What each command does: it asks the engine and prints."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from retinanet_fast.cli.inputs import amount, location_of, required, say, say_skipped
from retinanet_fast.cli.recipe_flags import recipe_of
from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.errors import InputError, Problems

if TYPE_CHECKING:
    pass


def eval_command(options: argparse.Namespace) -> None:
    from retinanet_fast.engine.data.coco import read_annotations, read_split
    from retinanet_fast.engine.evaluation.coco_numbers import evaluate
    from retinanet_fast.engine.evaluation.paper import comparison
    from retinanet_fast.engine.evaluation.results import read_results

    if (options.checkpoint is None) == (options.results is None):
        raise InputError("eval: expected --checkpoint RUN, or --results FILE")
    if options.batch_size is not None and options.batch_size < 1:
        raise InputError(f"--batch-size: expected a number above 0, got {options.batch_size}")
    problems = Problems(options.skip_bad)
    split_name = "val" if options.val_json else options.split
    location = required(location_of(options, split_name), options.data, split_name)
    if options.results is not None:
        split = read_annotations(location.annotations, problems)
        evaluation = evaluate(split, read_results(options.results, split))
        label = options.results.name
    else:
        split = read_split(location, problems)
        found = _eval_checkpoint(options, split, problems)
        if found is None:
            return  # the main process speaks
        evaluation = found
        label = f"this model ({options.checkpoint})"
    say_skipped(problems)
    print(evaluation.table())
    print()
    print(evaluation.category_table())
    if options.compare:
        print()
        print(comparison(evaluation, label))


def _eval_checkpoint(options: argparse.Namespace, split: Split, problems: Problems) -> Evaluation | None:
    """The numbers of a checkpoint, in the main process; None in the others that ``torchrun`` started."""
    from retinanet_fast.engine import checkpoint as checkpoints
    from retinanet_fast.engine.build_model import choose_device
    from retinanet_fast.engine.evaluation.coco_numbers import evaluate
    from retinanet_fast.engine.evaluation.detect import detect
    from retinanet_fast.engine.evaluation.results import write_results
    from retinanet_fast.engine.prediction.predict import restore_model
    from retinanet_fast.engine.processes import joined

    device = choose_device(options.device)
    state = checkpoints.load(options.checkpoint)
    recipe = _running(state.recipe, options)
    evaluation = None
    with joined(device) as processes:
        device = processes.own_device(device)
        model = restore_model(state, options.checkpoint, device)
        if processes.is_main:
            among = f" in {processes.world_size} processes" if processes.world_size > 1 else ""
            say(f"eval: {amount(split)} of {split.annotations.name}, on {device}{among}")
        found = detect(
            model, split, state.categories, recipe, device, problems, processes, batch_size=options.batch_size
        )
        with processes.patiently():
            if found is not None:
                say(f"{len(found.results)} detections, {found.images_per_second:.1f} images/s")
                if options.out is not None:
                    write_results(options.out, found.results)
                evaluation = evaluate(split, found.results, found.image_ids)
    return evaluation


def _running(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """A checkpoint's recipe with the precision of the command line."""
    changed = {} if options.precision is None else {"precision": options.precision}
    return recipes.from_dict({**recipe.to_dict(), **changed}, "command line")


def predict_command(options: argparse.Namespace) -> None:
    from retinanet_fast.engine import checkpoint as checkpoints
    from retinanet_fast.engine.build_model import choose_device
    from retinanet_fast.engine.prediction.predict import list_pictures, predict, restore_model

    problems = Problems(options.skip_bad)
    files = list_pictures(options.pictures)
    device = choose_device(options.device)
    state = checkpoints.load(options.checkpoint)
    model = restore_model(state, options.checkpoint, device)
    recipe = _running(state.recipe, options)
    done = predict(model, state.categories, recipe, files, options.out, options.score, problems)
    say_skipped(problems)
    print(
        f"{options.out}: {done.pictures} pictures with {done.drawn} boxes of score >= {options.score:g}, "
        f"detections.json; {done.images_per_second:.1f} images/s"
    )


def demo_command(options: argparse.Namespace) -> None:
    from retinanet_fast.engine.build_model import choose_device
    from retinanet_fast.engine.data.coco import locate, read_split
    from retinanet_fast.engine.data.rendered import RenderOptions
    from retinanet_fast.engine.demo import Demo, render, run_demo

    started = time.perf_counter()
    problems = Problems(options.skip_bad)
    device = choose_device(options.device)
    data, rendered = options.data, None
    if data is None:
        rendered = RenderOptions()
        if options.train_count is not None:
            rendered.train = options.train_count
        if options.val_count is not None:
            rendered.val = options.val_count
        data = options.out / "data"
        render(data, rendered, say)
    recipe = recipe_of(options.recipe or ("demo" if rendered else "quick"), options)
    splits = []
    for split in ("train", "val"):
        location = required(locate(data, split), data, split)
        splits.append(read_split(location, problems))
        print(f"{split}: {amount(splits[-1])}", flush=True)
    demo = Demo(recipe, splits[0], splits[1], options.out, device, problems, rendered, started, say)
    page = run_demo(demo)
    say_skipped(problems)
    print(f"{time.perf_counter() - started:.0f} s in all; see {page}")


def info_command(options: argparse.Namespace) -> None:
    from retinanet_fast.engine.environment import describe

    rows = describe()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def bench_command(words: list[str]) -> int:
    """The benchmarks' own exit code; they lie beside the package in the source tree, or in the working folder."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (folder / "benchmarks" / "__main__.py").is_file():
            paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            return subprocess.call([sys.executable, "-m", "benchmarks", *words], env=environment)
    raise InputError("bench: the benchmarks come with the source tree: run it in that folder")
