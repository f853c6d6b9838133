"""``retinanet-fast eval``, alone or under torchrun."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from retinanet_fast.cli.inputs import amount, location_of, required, say, say_skipped
from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.threads import Load, set_threads

if TYPE_CHECKING:
    from retinanet_fast.engine.data.split import Split
    from retinanet_fast.engine.evaluation.coco_numbers import Evaluation
    from retinanet_fast.engine.recipe import Recipe


def eval_command(options: argparse.Namespace) -> None:
    """Detect with a checkpoint, or read detections from a file, and print COCO's numbers."""
    start = Load.now()
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
    evaluation: Evaluation | None
    if options.results is not None:
        split = read_annotations(location.annotations, problems)
        evaluation = evaluate(split, read_results(options.results, split))
        label = options.results.name
    else:
        split = read_split(location, problems)
        evaluation = _eval_checkpoint(options, split, problems, start)
        label = f"this model ({options.checkpoint})"
    if evaluation is None:
        return  # the main process speaks
    say_skipped(problems)
    print(evaluation.table())
    print()
    print(evaluation.category_table())
    if options.compare:
        print()
        print(comparison(evaluation, label))


def _eval_checkpoint(
    options: argparse.Namespace, split: Split, problems: Problems, start: Load
) -> Evaluation | None:
    """The numbers of a checkpoint, in the main process; None in the others that ``torchrun`` started."""
    from retinanet_fast.engine import checkpoint as checkpoints
    from retinanet_fast.engine.build_model import choose_device
    from retinanet_fast.engine.evaluation.coco_numbers import evaluate
    from retinanet_fast.engine.evaluation.detect import detect
    from retinanet_fast.engine.evaluation.results import write_results
    from retinanet_fast.engine.precision import describe
    from retinanet_fast.engine.prediction.predict import restore_model
    from retinanet_fast.engine.processes import joined

    device = choose_device(options.device)
    state = checkpoints.load(options.checkpoint)
    recipe = running_recipe(state.recipe, options)
    evaluation = None
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
                if options.out is not None:
                    write_results(options.out, found.results)
                evaluation = evaluate(split, found.results, found.image_ids)
    return evaluation


def running_recipe(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """A checkpoint's recipe with the precision and the threads of the command line."""
    given = {name: getattr(options, name) for name in ("precision", "threads")}
    changed = {name: value for name, value in given.items() if value is not None}
    return recipes.from_dict({**recipe.to_dict(), **changed}, "command line")
