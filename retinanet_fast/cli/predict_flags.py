"""The flags of ``retinanet-fast predict``."""

from __future__ import annotations

import argparse
from pathlib import Path

# So many pictures and more are drawn only where --draw asks for it.
MANY = 1000
PICTURES_HELP = """\
pictures, in any number and order:
  photo.jpg  frames/  'photos/**/*.png'   files, folders with their subfolders, patterns
  'shard-{000..099}.tar'                  uncompressed tar files of pictures
  clip.mp4                                each frame of a video, where PyAV is installed (the extra video)
  @list.txt  -                            a file, or the standard input, with one of the former a line
"""


def add_predict(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    parser.epilog = PICTURES_HELP
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="what to detect on, see below")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN|FILE")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/predict"), metavar="DIR", help="default: runs/predict"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", action="store_true", help="go on with the prediction in --out, if there is one"
    )
    start.add_argument("--overwrite", action="store_true", help="replace the prediction in --out")
    parser.add_argument(
        "--draw",
        action=argparse.BooleanOptionalAction,
        default=None,
        help=f"write each picture with its boxes (default: where they are fewer than {MANY})",
    )
    parser.add_argument(
        "--score", type=float, default=0.5, help="draw boxes from this score on (default 0.5)"
    )
    parser.add_argument("--batch-size", type=int, default=0, metavar="N", help="pictures at a time")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read, and as many that draw (default: as in training)",
    )
