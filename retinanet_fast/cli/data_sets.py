"""``retinanet-fast check-data`` and ``convert``: what needs a data set, but no model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from retinanet_fast.cli.data_arguments import SPLITS
from retinanet_fast.cli.inputs import amount, say_skipped
from retinanet_fast.engine.errors import InputError, Problems

if TYPE_CHECKING:
    from retinanet_fast.engine.data.checking import Checked
    from retinanet_fast.engine.data.split import Location


def check_data_command(options: argparse.Namespace) -> None:
    """Look at everything, and list all that is wrong.

    Raises:
        InputError: something is wrong.
    """
    from retinanet_fast.engine.data.checking import check_split

    if options.workers is not None and options.workers < 0:
        raise InputError(f"--workers: expected a number from 0 on, got {options.workers}")
    found: list[Checked] = []
    for name, location in _locations(options).items():
        checked = check_split(name, location, options.workers)
        print("\n".join(checked.lines()), flush=True)
        found.append(checked)
    problems = [problem for checked in found for problem in [*checked.problems, *_unknown(found[0], checked)]]
    for problem in problems:
        print(problem)
    if problems:
        raise InputError(
            f"{options.data}: {len(problems)} problem{'s' if len(problems) > 1 else ''}, listed above"
        )
    print("nothing is wrong")


def _unknown(first: Checked, checked: Checked) -> list[str]:
    """That a split has a category that the first split lacks, as a model trained on that one would find out."""
    from retinanet_fast.engine.data.dataset import category_ids

    if first.split is not None and checked.split is not None:
        try:
            category_ids(first.split.categories, checked.split)
        except InputError as error:
            return [str(error)]
    return []


def convert_command(options: argparse.Namespace) -> None:
    """Write COCO's json for each split."""
    from retinanet_fast.engine.data.convert import annotations_path, write_split
    from retinanet_fast.engine.data.sources import read_split

    locations = _locations(options)
    for name in locations:
        annotations_path(options.out, name)  # before anything is read
    problems = Problems(options.skip_bad)
    for name, location in locations.items():
        split = read_split(location, problems)
        path = write_split(split, name, options.out, options.copy_images)
        print(f"{path}: {amount(split)}, {len(split.categories)} categories", flush=True)
    say_skipped(problems)


def _locations(options: argparse.Namespace) -> dict[str, Location]:
    """The splits that are asked for, or all that the data set has.

    Raises:
        InputError: there is none, or one that is asked for is not there.
    """
    from retinanet_fast.engine.data.sources import locate, missing

    located = {name: locate(options.data, name, options.format) for name in options.split or SPLITS}
    found = {name: location for name, location in located.items() if location is not None}
    absent = [name for name in located if name not in found] if options.split else list(located)
    if absent and (options.split or not found):
        raise InputError(missing(options.data, absent[0], options.format))
    return found
