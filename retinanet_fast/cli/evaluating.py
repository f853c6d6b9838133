"""``retinanet-fast eval``, alone or under torchrun."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from retinanet_fast.cli.inputs import amount, location_of, required, say, say_skipped
from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.threads import Load, set_threads

if TYPE_CHECKING:
    from pathlib import Path

    from retinanet_fast.engine.data.split import Split
    from retinanet_fast.engine.evaluation.analysis import Analysis
    from retinanet_fast.engine.evaluation.coco_numbers import Evaluation
    from retinanet_fast.engine.evaluation.results import Detected, Results
    from retinanet_fast.engine.recipe import Recipe

    Scored = tuple[Evaluation, Analysis]

DETECTIONS = "detections.json"


def eval_command(options: argparse.Namespace) -> None:
    """Detect with a checkpoint, or read detections from a file, and print COCO's numbers and what goes wrong."""
    start = Load.now()
    from retinanet_fast.engine.data.sources import read_annotations, read_split
    from retinanet_fast.engine.evaluation.federated import federation_of
    from retinanet_fast.engine.evaluation.paper import comparison
    from retinanet_fast.engine.evaluation.results import read_results

    if (options.checkpoint is None) == (options.results is None):
        raise InputError("eval: expected --checkpoint RUN, or --results FILE")
    if options.batch_size is not None and options.batch_size < 1:
        raise InputError(f"--batch-size: expected a number above 0, got {options.batch_size}")
    problems = Problems(options.skip_bad)
    split_name = "val" if options.val_json else options.split
    location = required(location_of(options, split_name), options.data, split_name, options.format)
    scored: Scored | None
    if options.results is not None:
        split = read_annotations(location, problems)
        label = options.results.name
        results = read_results(options.results, split)
        _write_detections(options.out, results)
        scored = _score(split, results, None, options.evaluator or "auto")
        _write_page(options.out, label, split, results, scored)
    else:
        split = read_split(location, problems)
        federation_of(split)  # what LVIS's evaluation lacks is told before the model runs
        label = f"this model ({options.checkpoint})"
        scored = _eval_checkpoint(options, split, problems, start, label)
    if scored is None:
        return  # the main process speaks
    evaluation, analysis = scored
    say_skipped(problems)
    print(evaluation.table(), evaluation.category_table(), analysis.table(), sep="\n\n")
    if options.compare:
        print()
        print(comparison(evaluation, label))


def _eval_checkpoint(
    options: argparse.Namespace, split: Split, problems: Problems, start: Load, label: str
) -> Scored | None:
    """The numbers of a checkpoint, in the main process; None in the others that ``torchrun`` started."""
    from retinanet_fast.engine import checkpoint as checkpoints
    from retinanet_fast.engine.build_model import choose_device
    from retinanet_fast.engine.evaluation.detect import detect
    from retinanet_fast.engine.precision import describe
    from retinanet_fast.engine.prediction.predict import restore_model
    from retinanet_fast.engine.processes import joined

    device = choose_device(options.device)
    state = checkpoints.load(options.checkpoint)
    recipe = running_recipe(state.recipe, options)
    scored = None
    with joined(device) as processes:
        device = processes.own_device(device)
        model = restore_model(state, options.checkpoint, device)
        where = f"{device}, {set_threads(recipe.threads, start)}, {describe(recipe.precision, device)}"
        if processes.world_size > 1:
            where += f", {processes.world_size} processes"
        if processes.is_main:
            say(f"eval: {amount(split)} of {split.annotations.name}, on {where}")
        found = detect(
            model, split, state.categories, recipe, device, problems, processes, batch_size=options.batch_size
        )
        with processes.patiently():
            if found is not None:
                say(f"{len(found.results)} detections, {found.images_per_second:.1f} images/s")
                _write_detections(options.out, found.results)
                scored = _score(split, found.results, found.image_ids, recipe.evaluator)
                _write_page(options.out, label, split, found, scored)
    return scored


def _score(split: Split, results: Results, image_ids: list[int] | None, evaluator: str) -> Scored:
    from retinanet_fast.engine.evaluation.analysis import analyse
    from retinanet_fast.engine.evaluation.coco_numbers import evaluate

    return evaluate(split, results, image_ids, evaluator), analyse(split, results, image_ids)


def _write_detections(out: Path | None, results: Results) -> None:
    """Into ``--out``, before what may fail."""
    from retinanet_fast.engine.evaluation.results import write_results

    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not _is_file(out):
            out.mkdir(exist_ok=True)
            out /= DETECTIONS
        write_results(out, results)


def _write_page(
    out: Path | None, label: str, split: Split, found: Detected | Results, scored: Scored
) -> None:
    """Pictures and page, where ``--out`` is a folder; images are shown of what was detected just now."""
    from retinanet_fast.engine.evaluation.results import Detected
    from retinanet_fast.engine.reporting.evaluation_folder import write_evaluation
    from retinanet_fast.engine.reporting.pictures import compare

    if out is not None and not _is_file(out):
        pictures = compare(split, found) if isinstance(found, Detected) else []
        write_evaluation(out, label, split, *scored, pictures)


def _is_file(out: Path) -> bool:
    return out.suffix == ".json"


def running_recipe(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """A checkpoint's recipe with the values that the command line gives."""
    given = {name: getattr(options, name, None) for name in ("precision", "threads", "evaluator")}
    changed = {name: value for name, value in given.items() if value is not None}
    return recipes.from_dict({**recipe.to_dict(), **changed}, "command line")
