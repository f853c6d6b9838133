"""What each command does: it asks the engine and prints."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinanet_fast.cli.arguments import PROGRAM, overrides, recipe_of
from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.errors import InputError, Problems

if TYPE_CHECKING:
    from retinanet_fast.engine.data.coco import Location, Split
    from retinanet_fast.engine.evaluation.coco_numbers import Evaluation
    from retinanet_fast.engine.recipe import Recipe


def train_command(options: argparse.Namespace) -> None:
    from retinanet_fast.engine import checkpoint as checkpoints
    from retinanet_fast.engine.build_model import choose_device
    from retinanet_fast.engine.data.coco import read_split
    from retinanet_fast.engine.training.train import Run, train

    problems = Problems(options.skip_bad)
    device = choose_device(options.device)
    if options.resume and options.recipe is None:
        saved = checkpoints.load(options.out).recipe.to_dict()
        recipe = recipes.from_dict({**saved, **overrides(options)}, "command line")
    else:
        recipe = recipe_of(options.recipe, options)
    if not (options.resume or options.overwrite) and (options.out / checkpoints.LAST).exists():
        raise InputError(
            f"{options.out}: holds a run already; --resume goes on with it, --overwrite replaces it"
        )
    train_location = _required(_location(options, "train"), options.data, "train")
    val_location = _location(options, "val")
    train_split = read_split(train_location, problems)
    val_split = read_split(val_location, problems) if val_location else None
    _say_skipped(problems)
    print(f"train: {_amount(train_split)}, {len(train_split.categories)} categories, on {device}")
    print(
        f"val:   {_amount(val_split)}" if val_split else "val:   no such split: AP is not measured",
        flush=True,
    )
    run = Run(recipe, train_split, val_split, options.out, device, problems, _say)
    train(run, resume=options.resume)
    if run.evaluation is not None:
        print(run.evaluation.table())
    _say_skipped(problems)
    print(f"{options.out}: {checkpoints.LAST}, metrics.jsonl, loss.png" + (", ap.png" if val_split else ""))


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
    location = _required(_location(options, split_name), options.data, split_name)
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
    _say_skipped(problems)
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
            _say(f"eval: {_amount(split)} of {split.annotations.name}, on {device}{among}")
        found = detect(
            model, split, state.categories, recipe, device, problems, processes, batch_size=options.batch_size
        )
        with processes.patiently():
            if found is not None:
                _say(f"{len(found.results)} detections, {found.images_per_second:.1f} images/s")
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
    _say_skipped(problems)
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
        render(data, rendered, _say)
    recipe = recipe_of(options.recipe or ("demo" if rendered else "quick"), options)
    splits = []
    for split in ("train", "val"):
        location = _required(locate(data, split), data, split)
        splits.append(read_split(location, problems))
        print(f"{split}: {_amount(splits[-1])}", flush=True)
    demo = Demo(recipe, splits[0], splits[1], options.out, device, problems, rendered, started, _say)
    page = run_demo(demo)
    _say_skipped(problems)
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


def _required(location: Location | None, data: Path, split: str) -> Location:
    if location is None:
        names = f"annotations/instances_{split}.json, nor COCO's instances_{split}2017.json"
        raise InputError(f"{data}: no {names}")
    return location


def _location(options: argparse.Namespace, split: str) -> Location | None:
    """A split by its own flags, or below ``--data``."""
    from retinanet_fast.engine.data.coco import Location, locate

    annotations = getattr(options, f"{split}_json", None)
    images = getattr(options, f"{split}_images", None)
    if annotations is not None:
        if images is None and getattr(options, "results", None) is None:
            raise InputError(f"--{split}-json: expected --{split}-images with it")
        return Location(annotations, (images,) if images is not None else ())
    if options.data is None:
        if split == "val" and getattr(options, "train_json", None) is not None:
            return None
        raise InputError(f"expected --data DIR, or --{split}-json with --{split}-images")
    found = locate(options.data, split)
    if found is not None and images is not None:
        found = found._replace(image_folders=(images,))
    return found


def _amount(split: Any) -> str:
    return f"{len(split.images)} images, {split.count_boxes()} boxes"


def _say(line: str) -> None:
    print(line, flush=True)


def _say_skipped(problems: Problems) -> None:
    if summary := problems.summary():
        print(f"{PROGRAM}: {summary}", file=sys.stderr)
