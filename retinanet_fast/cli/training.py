"""``retinanet-fast train``, alone or under torchrun."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinanet_fast.cli.inputs import amount, location_of, required, say, say_skipped
from retinanet_fast.cli.recipe_flags import overrides, recipe_of
from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.threads import Load, set_threads

if TYPE_CHECKING:
    from retinanet_fast.engine.data.split import Location
    from retinanet_fast.engine.processes import Processes
    from retinanet_fast.engine.recipe import Recipe
    from retinanet_fast.engine.run_record import RunRecord
    from retinanet_fast.engine.training.hooks import Hook


def train_command(options: argparse.Namespace) -> None:
    """Start a run, go on with one, or say what one would take.

    Raises:
        InputError: of whatever the command line or the data has wrong.
    """
    if options.out is None and not options.dry_run:
        raise InputError("train: expected --out RUN, the folder to write, or --dry-run")
    start = Load.now()
    from retinanet_fast.engine.build_model import choose_device
    from retinanet_fast.engine.processes import joined

    device = choose_device(options.device)
    with joined(device) as processes:
        _train(options, device, processes, start)


def _train(options: argparse.Namespace, device: Any, processes: Processes, start: Load) -> None:
    from retinanet_fast.engine.data.sources import read_split
    from retinanet_fast.engine.precision import describe
    from retinanet_fast.engine.reporting.hooks import choose_tensorboard, reporting_hooks
    from retinanet_fast.engine.run_folder import RunFolder
    from retinanet_fast.engine.training.run import Run
    from retinanet_fast.engine.training.train import train

    record = _saved(options)
    recipe = _recipe(options, record)
    problems = Problems(options.skip_bad or (record is not None and record.skip_bad))
    train_location, val_location = _locations(options, record)
    out = options.out or Path()
    train_split = read_split(train_location, problems)
    val_split = read_split(val_location, problems) if val_location else None
    run = Run(recipe, train_split, val_split, out, device, problems, say, processes, record=record)
    before = record.starts[-1].threads if record is not None and not recipe.threads else 0
    threads = set_threads(recipe.threads or before, start)
    where = f"{device}, {threads}, {describe(recipe.precision, device)}" + (
        f", {processes.world_size} processes" if processes.world_size > 1 else ""
    )
    run.say(f"train: {amount(train_split)}, {len(train_split.categories)} categories, on {where}")
    run.say(f"val:   {amount(val_split)}" if val_split else "val:   no such split: AP is not measured")
    if processes.is_main:
        say_skipped(problems)
    if options.dry_run:
        from retinanet_fast.engine.training.dry_run import dry_run

        for line in dry_run(run).lines():
            run.say(line)
        return
    hooks: list[Hook] = []
    if processes.is_main:
        hooks = reporting_hooks(RunFolder(options.out), choose_tensorboard(options.tensorboard, say))
    train(run, resume=run.record is not None and _has_checkpoint(options), hooks=hooks)
    if processes.is_main:
        if run.evaluation is not None:
            print(run.evaluation.table())
        say_skipped(problems)
        print(f"{options.out}: last.pt, metrics.jsonl, loss.png" + (", report.html" if val_split else ""))


def _saved(options: argparse.Namespace) -> RunRecord | None:
    """What is written down of the run to go on with; None for a new one.

    Raises:
        InputError: the folder holds a run and nothing says what to do with it, or none where one is to be resumed.
    """
    from retinanet_fast.engine.run_folder import RECORD
    from retinanet_fast.engine.training.train import saved_record

    if options.dry_run:
        return None
    if not options.resume:
        if _has_checkpoint(options) and not options.overwrite:
            raise InputError(
                f"{options.out}: holds a run already; --resume goes on with it, --overwrite replaces it"
            )
        return None
    if _has_checkpoint(options) or (options.out / RECORD).is_file():
        return saved_record(options.out)
    if options.data is None and options.train_json is None:
        raise InputError(f"{options.out}: no run to resume; --data DIR, and a --recipe, start one")
    return None


def _has_checkpoint(options: argparse.Namespace) -> bool:
    from retinanet_fast.engine.run_folder import RunFolder

    return RunFolder(options.out).last.is_file()


def _recipe(options: argparse.Namespace, record: RunRecord | None) -> Recipe:
    """The recipe of the command line, or the run's own with the command line's changes."""
    if record is None or options.recipe is not None:
        return recipe_of(options.recipe, options)
    return recipes.from_dict({**record.recipe.to_dict(), **overrides(options)}, "command line")


def _locations(options: argparse.Namespace, record: RunRecord | None) -> tuple[Location, Location | None]:
    """Where the data is: as the command line says, or where the run had it."""
    if record is not None and options.data is None and options.train_json is None:
        own = {name: split.location for name, split in record.data.items()}
        return own["train"], own.get("val")
    train = required(location_of(options, "train"), options.data, "train", options.format)
    return train, location_of(options, "val")
