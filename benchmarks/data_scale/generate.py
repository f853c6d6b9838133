"""Writes a data set of COCO's size, in COCO's format.

    python -m benchmarks.data_scale.generate --out DIR [--scale coco] [--images N --boxes N] [--distinct]

The default has COCO 2017's numbers: 118,287 images with 860,001 boxes for training, 5,000 with 36,781 for validation,
and a json of about 450 MB. The files of a picture size are hard links to a few different pictures; ``--distinct``
gives each file bytes of its own. The same seed writes the same bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.data_scale.annotations import layout, write_annotations
from benchmarks.data_scale.pictures import write_pictures
from benchmarks.data_scale.sizes import SCALES, Scale, SplitScale

# The file that marks a folder as one of ours, which may be replaced; it says what is in it once it is whole.
MARK = "generated.txt"


def generate(folder: Path, scale: Scale, distinct: bool = False) -> None:
    """Write the data set into a new or empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("not whole yet\n", encoding="utf-8")
    for number, split in enumerate(scale.splits):
        start = time.perf_counter()
        generator = np.random.default_rng([scale.seed, number])
        where = layout(scale, split, generator)
        annotations = folder / "annotations" / f"instances_{split.name}.json"
        write_annotations(annotations, scale, split, where, generator)
        files = write_pictures(
            folder / split.name, where.names, where.sizes, scale.pictures_per_size, generator, distinct
        )
        print(
            f"{annotations}: {split.images:,} images, {split.boxes:,} boxes, "
            f"{annotations.stat().st_size / 1e6:.0f} MB; {files:,} different files, "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )
    (folder / MARK).write_text(_content(scale, distinct), encoding="utf-8")


def generated(folder: Path, scale: Scale, distinct: bool = False) -> Path:
    """The data set in a folder: written where it is not there yet, or not whole, or another one.

    Raises:
        FileExistsError: the folder holds something else.
    """
    mark = folder / MARK
    if mark.is_file() and mark.read_text(encoding="utf-8") == _content(scale, distinct):
        return folder
    if folder.is_dir() and any(folder.iterdir()):
        if not mark.is_file():
            raise FileExistsError(f"{folder}: expected an empty folder or a generated data set")
        shutil.rmtree(folder)
    generate(folder, scale, distinct)
    return folder


def _content(scale: Scale, distinct: bool) -> str:
    return f"{scale} distinct={distinct}\n"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0; 2 for a request that cannot be met."""
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks.data_scale.generate", description=(__doc__ or "").partition("\n")[0]
    )
    parse.add_argument("--out", type=Path, required=True, metavar="DIR")
    parse.add_argument("--scale", choices=sorted(SCALES), default="coco")
    parse.add_argument("--images", type=int, metavar="N", help="of a single split train2017 (with --boxes)")
    parse.add_argument("--boxes", type=int, metavar="N", help="in it (default: 7.27 an image, as in COCO)")
    parse.add_argument("--distinct", action="store_true", help="no hard links: each file has its own bytes")
    parse.add_argument("--seed", type=int, default=0)
    options = parse.parse_args(arguments)
    scale = dataclasses.replace(SCALES[options.scale], seed=options.seed)
    if options.images is not None:
        boxes = options.boxes if options.boxes is not None else round(7.27 * options.images)
        scale = dataclasses.replace(scale, splits=(SplitScale("train2017", options.images, boxes),))
    try:
        generated(options.out, scale, options.distinct)
    except OSError as error:
        print(f"generate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
