"""``retinanet-fast browse``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from retinanet_fast.cli.inputs import amount, location_of, required, say_skipped
from retinanet_fast.engine.errors import InputError, Problems

if TYPE_CHECKING:
    from retinanet_fast.engine.data.split import Location
    from retinanet_fast.engine.run_record import RunRecord


def browse_command(options: argparse.Namespace) -> None:
    """Write the page, without opening it."""
    from retinanet_fast.engine.data.sources import read_split
    from retinanet_fast.engine.reporting.browse import BrowsePage, read_found
    from retinanet_fast.engine.run_folder import RunFolder

    folder = RunFolder(options.run) if options.run is not None else None
    file = options.detections or (folder.detections if folder is not None else None)
    if file is None:
        raise InputError("browse: expected a run's folder, or --detections FILE with --data DIR")
    if options.embed is not None and options.embed < 1:
        raise InputError(f"--embed: expected a number above 0, got {options.embed}")
    record = folder.read() if folder is not None else None
    problems = Problems(options.skip_bad)
    split = read_split(_location(options, record), problems)
    found = read_found(file, split, problems)
    title = f"{folder.path.resolve().name}: {found.name}" if folder is not None else found.name
    out = options.out or (folder.browse_page if folder is not None else file.with_name("browse.html"))
    orientation = record.recipe.orientation if record is not None else "auto"
    score = BrowsePage(title, found.split, found.results, options.embed, orientation).write(out)
    say_skipped(problems)
    print(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB, {amount(found.split)}, {len(found.results)} detections; "
        f"it opens at the score of the best F1, {score:.2f}"
    )


def _location(options: argparse.Namespace, record: RunRecord | None) -> Location:
    """Of the data that the command names, else of the held-out data that the run was evaluated on."""
    if record is None or options.data is not None or options.val_json is not None:
        name = "val" if options.val_json is not None else options.split
        return required(location_of(options, name), options.data, name, options.format)
    data = record.data.get("val")
    if data is None:
        raise InputError("browse: the run has no held-out data: expected --data DIR with --detections FILE")
    if not Path(data.annotations).exists():
        raise InputError(f"{data.annotations}: no such file: where has the run's data moved? --data DIR")
    return data.location
