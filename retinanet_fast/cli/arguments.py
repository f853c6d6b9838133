"""The command line: commands and their flags."""

from __future__ import annotations

import argparse
from pathlib import Path

from retinanet_fast import __version__
from retinanet_fast.cli.data_arguments import DATA_HELP, add_check_data, add_convert, add_data
from retinanet_fast.cli.exporting import add_export
from retinanet_fast.cli.predict_flags import add_predict
from retinanet_fast.cli.recipe_flags import add_recipe_flags, choices_of
from retinanet_fast.engine import recipe as recipes

PROGRAM = "retinanet-fast"
DESCRIPTION = """\
Train a RetinaNet on a data set of your own and detect with it.

  retinanet-fast demo                                        render images, train, and show it all on one page
  retinanet-fast train --recipe bccd --data DIR --out RUN    train
  retinanet-fast eval --checkpoint RUN --data DIR            COCO's twelve numbers
  retinanet-fast predict --checkpoint RUN PICTURE ...        detections on pictures, and drawings
  retinanet-fast browse RUN                                  a page of its detections, the worst images first
  retinanet-fast check-data --data DIR                       all that is wrong with a data set
  retinanet-fast convert --data DIR --out DIR                COCO's json of another format
  retinanet-fast export RUN --format onnx --out FILE         a file for other programs
"""
USES_DATA = ("train", "eval", "demo", "browse", "check-data", "convert")


def make_parser() -> argparse.ArgumentParser:
    """The parser; ``options.command`` is the command's name."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, what: str) -> argparse.ArgumentParser:
        return choices.add_parser(
            name,
            help=what,
            description=what[0].upper() + what[1:] + ".",
            epilog=DATA_HELP if name in USES_DATA else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _add_demo(add("demo", "render a small data set, train on it, evaluate, time the ops, write a page"))
    _add_train(add("train", "train on a data set"))
    _add_eval(add("eval", "COCO's twelve numbers, what goes wrong and what it costs"))
    predict = add("predict", "detect on pictures: a line of json for each, COCO's results, and drawings")
    add_predict(predict)
    _add_running(predict)
    _add_common(predict)
    _add_browse(add("browse", "write a page on which to look through a run's detections and errors"))
    add_export(add("export", "write a model to a file for other programs, and check the file"))
    add_check_data(
        add("check-data", "look at a data set's entries and decode its images, and list all that is wrong")
    )
    add_convert(add("convert", "write COCO's json for a data set in another format"))
    choices.add_parser("bench", help="run the benchmarks of the source tree (bench --help: their options)")
    add("info", "what the ops were built from and for, and what is here")
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [--out DIR] [--data DIR] [--recipe NAME|FILE] [option ...]"
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="use this data set instead of rendering one")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="default: demo; with --data: quick")
    parser.add_argument("--train-count", type=int, metavar="N", help="rendered images to train on")
    parser.add_argument("--val-count", type=int, metavar="N", help="rendered images to evaluate on")
    _add_common(parser)
    add_recipe_flags(parser)


def _add_train(parser: argparse.ArgumentParser) -> None:
    modes = "[--resume | --overwrite | --dry-run]"
    parser.usage = f"%(prog)s --data DIR --out RUN [--recipe NAME|FILE] {modes} [option ...]"
    names = ", ".join(recipes.names())
    parser.add_argument("--recipe", metavar="NAME|FILE", help=f"one of {names}, or a TOML file")
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder to write; not needed with --dry-run")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", action="store_true", help="go on with the run in --out; start it where there is none yet"
    )
    start.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    start.add_argument(
        "--dry-run",
        action="store_true",
        help="check the data, take a few steps, say what the run would take, and write nothing",
    )
    parser.add_argument(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="write TensorBoard's event files (default: where the package tensorboard is installed)",
    )
    add_data(parser, ("train", "val"))
    _add_common(parser)
    add_recipe_flags(parser)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, metavar="RUN|FILE", help="a run's folder or a checkpoint")
    parser.add_argument("--split", default="val", help="train, val (default) or test")
    parser.add_argument("--compare", action="store_true", help="set the result beside the paper's table")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR|FILE.json",
        help="folder for the detections (COCO's results format), all numbers, pictures and a page; a name that "
        "ends in .json: the detections alone",
    )
    parser.add_argument(
        "--evaluator",
        choices=choices_of("evaluator"),
        help="package that computes the numbers (default: as in training)",
    )
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="evaluate these detections rather than a checkpoint's"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time")
    _add_running(parser)
    add_data(parser, ("val",))
    _add_common(parser)


def _add_browse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: browse.html in RUN, or beside --detections)",
    )
    parser.add_argument(
        "--detections",
        type=Path,
        metavar="FILE",
        help="detections in COCO's results format, as eval --out writes them, or a run's detections.npz "
        "(default: RUN's, of its last evaluation)",
    )
    parser.add_argument("--split", default="val", help="of --data: train, val (default) or test")
    parser.add_argument(
        "--embed",
        type=int,
        metavar="N",
        help="put the N worst images into the page, and no others, so that it can be sent; "
        "otherwise it shows the picture files where they lie",
    )
    add_data(parser, ("val",))
    _add_skip_bad(parser)


def _add_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=choices_of("precision"),
        help="of the convolutions (default: as in training)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="that compute (default: as in training)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto (default: a GPU where there is one), cpu, cuda, cuda:1"
    )
    _add_skip_bad(parser)


def _add_skip_bad(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip-bad", action="store_true", help="leave bad entries out and count them")
