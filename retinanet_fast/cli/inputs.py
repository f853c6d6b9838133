"""What several commands read and say in the same way."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinanet_fast.cli.arguments import PROGRAM
from retinanet_fast.engine.errors import InputError, Problems

if TYPE_CHECKING:
    from retinanet_fast.engine.data.split import Location


def required(location: Location | None, data: Path, split: str, format: str = "auto") -> Location:
    if location is None:
        from retinanet_fast.engine.data.sources import missing

        raise InputError(missing(data, split, format))
    return location


def location_of(options: argparse.Namespace, split: str) -> Location | None:
    """A split by its own flags, or below ``--data``."""
    from retinanet_fast.engine.data.sources import locate
    from retinanet_fast.engine.data.split import Location

    annotations = getattr(options, f"{split}_json", None)
    images = getattr(options, f"{split}_images", None)
    if annotations is not None:
        if images is None and getattr(options, "results", None) is None:
            raise InputError(f"--{split}-json: expected --{split}-images with it")
        kind = "coco" if options.format == "auto" else options.format
        return Location(annotations, (images,) if images is not None else (), kind)
    if options.data is None:
        if split == "val" and getattr(options, "train_json", None) is not None:
            return None
        raise InputError(f"expected --data DIR, or --{split}-json with --{split}-images")
    found = locate(options.data, split, options.format)
    if found is not None and images is not None:
        found = found._replace(image_folders=(images,))
    return found


def amount(split: Any) -> str:
    return f"{len(split.images)} images, {split.count_boxes()} boxes"


def say(line: str) -> None:
    """Print a line, above the progress bar where there is one."""
    from retinanet_fast.engine.reporting import progress

    progress.say(line)


def say_skipped(problems: Problems) -> None:
    if summary := problems.summary():
        print(f"{PROGRAM}: {summary}", file=sys.stderr)
