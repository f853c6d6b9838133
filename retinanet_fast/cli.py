"""``retinanet-fast``: reads the command line and calls the engine.

Exit codes: 0 done; 1 training or the build failed; 2 bad input, told in one line; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.errors import InputError, Problems, TrainingError, describe_import_error
from retinanet_fast.engine.recipe import Recipe

if TYPE_CHECKING:
    from retinanet_fast.engine.coco import Location

PROGRAM = "retinanet-fast"
DESCRIPTION = """\
Train a RetinaNet on any COCO-format data set and detect with it.

  retinanet-fast demo                                        render images, train, and show it all on one page
  retinanet-fast train --recipe bccd --data DIR --out RUN    train
  retinanet-fast eval --checkpoint RUN --data DIR            COCO's twelve numbers
  retinanet-fast predict --checkpoint RUN PICTURE ...        pictures with boxes, and a json
"""
DATA_HELP = """\
data set:
  --data DIR holds annotations/instances_{train,val,test}.json with images/ (or images/{train,val,test}/),
  or COCO's own annotations/instances_{train,val}2017.json with {train,val}2017/.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["bench"]:
        return _bench(words[1:])
    options = _parser().parse_args(words)
    try:
        command: Callable[[argparse.Namespace], None] = options.command
        command(options)
    except InputError as error:
        return _fail(str(error), 2)
    except TrainingError as error:
        return _fail(str(error), 1)
    except ImportError as error:
        return _fail(describe_import_error(error), 1)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C; what was written before is whole", 130)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return code


# The command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    from retinanet_fast import __version__

    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, what: str, command: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        part = commands.add_parser(
            name,
            help=what,
            description=what[0].upper() + what[1:] + ".",
            epilog=DATA_HELP if name in ("train", "eval", "demo") else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        part.set_defaults(command=command)
        return part

    _add_demo(
        add("demo", "render a small data set, train on it, evaluate, time the ops, write a page", _demo)
    )
    _add_train(add("train", "train on a COCO-format data set", _train))
    _add_eval(add("eval", "COCO's twelve numbers, by pycocotools", _eval))
    _add_predict(add("predict", "draw boxes, class names and scores on pictures, and write a json", _predict))
    commands.add_parser("bench", help="run the benchmarks of the source tree (bench --help: their options)")
    add("info", "what the ops were built from and for, and what is here", _info)
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="use this data set instead of rendering one")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="default: demo; with --data: quick")
    parser.add_argument("--train-count", type=int, metavar="N", help="rendered images to train on")
    parser.add_argument("--val-count", type=int, metavar="N", help="rendered images to evaluate on")
    _add_common(parser)
    _add_recipe_flags(parser)


def _add_train(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(recipes.names())
    parser.add_argument("--recipe", metavar="NAME|FILE", help=f"one of {names}, or a TOML file")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder to write")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    _add_data(parser, ("train", "val"))
    _add_common(parser)
    _add_recipe_flags(parser)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, metavar="RUN|FILE", help="a run's folder or a checkpoint")
    parser.add_argument("--split", default="val", help="train, val (default) or test")
    parser.add_argument("--compare", action="store_true", help="set the result beside the paper's table")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the detections in COCO's results format"
    )
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="evaluate these detections rather than a checkpoint's"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time")
    _add_data(parser, ("val",))
    _add_common(parser)


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="picture files or folders")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN|FILE")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/predict"), metavar="DIR", help="default: runs/predict"
    )
    parser.add_argument(
        "--score", type=float, default=0.5, help="draw boxes from this score on (default 0.5)"
    )
    _add_common(parser)


def _add_data(parser: argparse.ArgumentParser, splits: Sequence[str]) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="a COCO-format data set, see below")
    for split in splits:
        parser.add_argument(f"--{split}-json", type=Path, metavar="FILE", help=f"{split} annotations")
        parser.add_argument(
            f"--{split}-images", type=Path, metavar="DIR", help=f"folder of the {split} images"
        )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto (default: a GPU where there is one), cpu, cuda, cuda:1"
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave bad entries out and count them")


def _add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each value of a recipe."""
    group = parser.add_argument_group("recipe values (default: the recipe's)")
    group.add_argument(
        "--image-size",
        nargs="+",
        metavar="N",
        help="shorter and longer side, as 240 320, 320x240, or one number for both: sets min_size and max_size",
    )
    kinds = get_type_hints(Recipe)
    for value in dataclasses.fields(Recipe):
        flag = "--" + value.name.replace("_", "-")
        doc, kind = value.metadata["doc"], kinds[value.name]
        if kind is bool:
            action: Any = argparse.BooleanOptionalAction
            group.add_argument(flag, action=action, default=argparse.SUPPRESS, help=doc)
        elif kind in (list[int], list[float]):
            group.add_argument(flag, nargs="*", default=argparse.SUPPRESS, metavar="N", help=doc)
        else:
            metavar = kind.__name__.upper() if kind is str else "N"
            group.add_argument(flag, type=kind, default=argparse.SUPPRESS, metavar=metavar, help=doc)


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe values that the command line gives."""
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(Recipe) if hasattr(options, f.name)}
    for name, kind in get_type_hints(Recipe).items():
        if name in given and kind in (list[int], list[float]):
            given[name] = _numbers("--" + name.replace("_", "-"), given[name], kind.__args__[0])
    if options.image_size:
        sides = _numbers("--image-size", options.image_size, int)
        if len(sides) > 2:
            raise InputError(f"--image-size: expected one or two numbers, got {len(sides)}")
        given["min_size"], given["max_size"] = [min(sides)], max(sides)
    return given


def _numbers(flag: str, words: list[str], kind: type) -> list[Any]:
    """Numbers from words such as ``8 11``, ``8,11`` or ``320x240``."""
    parts = [part for word in words for part in re.split(r"[\s,x/]+", word) if part]
    try:
        return [kind(part) for part in parts]
    except ValueError:
        raise InputError(f"{flag}: expected numbers, got {' '.join(words)!r}") from None


def _recipe(name: str | None, options: argparse.Namespace) -> Recipe:
    base = recipes.load(name) if name is not None else Recipe()
    return recipes.from_dict({**base.to_dict(), **_overrides(options)}, "command line")


# The commands


def _train(options: argparse.Namespace) -> None:
    from retinanet_fast.engine import checkpoint as checkpoints
    from retinanet_fast.engine.build import choose_device
    from retinanet_fast.engine.coco import read_split
    from retinanet_fast.engine.train import Run, train

    problems = Problems(options.skip_bad)
    device = choose_device(options.device)
    if options.resume and options.recipe is None:
        saved = checkpoints.load(options.out).recipe.to_dict()
        recipe = recipes.from_dict({**saved, **_overrides(options)}, "command line")
    else:
        recipe = _recipe(options.recipe, options)
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


def _eval(options: argparse.Namespace) -> None:
    from retinanet_fast.engine.coco import read_annotations, read_split
    from retinanet_fast.engine.evaluate import evaluate, read_results
    from retinanet_fast.engine.paper import comparison

    if (options.checkpoint is None) == (options.results is None):
        raise InputError("eval: expected --checkpoint RUN, or --results FILE")
    problems = Problems(options.skip_bad)
    split_name = "val" if options.val_json else options.split
    location = _required(_location(options, split_name), options.data, split_name)
    if options.results is not None:
        split = read_annotations(location.annotations, problems)
        evaluation = evaluate(split, read_results(options.results, split))
        label = options.results.name
    else:
        split = read_split(location, problems)
        evaluation = _eval_checkpoint(options, split, problems)
        label = f"this model ({options.checkpoint})"
    _say_skipped(problems)
    print(evaluation.table())
    print()
    print(evaluation.category_table())
    if options.compare:
        print()
        print(comparison(evaluation, label))


def _eval_checkpoint(options: argparse.Namespace, split: Any, problems: Problems) -> Any:
    from retinanet_fast.engine import checkpoint as checkpoints
    from retinanet_fast.engine.build import choose_device
    from retinanet_fast.engine.evaluate import detect, evaluate
    from retinanet_fast.engine.files import write_text
    from retinanet_fast.engine.predict import restore_model

    device = choose_device(options.device)
    state = checkpoints.load(options.checkpoint)
    changed = {} if options.batch_size is None else {"batch_size": options.batch_size}
    recipe = recipes.from_dict({**state.recipe.to_dict(), **changed}, "command line")
    model = restore_model(state, options.checkpoint, device)
    print(f"eval: {_amount(split)} of {split.annotations.name}, on {device}", flush=True)
    found = detect(model, split, state.categories, recipe, device, problems)
    print(f"{len(found.results)} detections, {found.images_per_second:.1f} images/s")
    if options.out is not None:
        write_text(options.out, json.dumps(found.results))
    return evaluate(split, found.results, found.image_ids)


def _predict(options: argparse.Namespace) -> None:
    from retinanet_fast.engine import checkpoint as checkpoints
    from retinanet_fast.engine.build import choose_device
    from retinanet_fast.engine.predict import list_pictures, predict, restore_model

    problems = Problems(options.skip_bad)
    files = list_pictures(options.pictures)
    device = choose_device(options.device)
    state = checkpoints.load(options.checkpoint)
    model = restore_model(state, options.checkpoint, device)
    done = predict(model, state.categories, state.recipe, files, options.out, options.score, problems)
    _say_skipped(problems)
    print(
        f"{options.out}: {done.pictures} pictures with {done.drawn} boxes of score >= {options.score:g}, "
        f"detections.json; {done.images_per_second:.1f} images/s"
    )


def _demo(options: argparse.Namespace) -> None:
    from retinanet_fast.engine.build import choose_device
    from retinanet_fast.engine.coco import locate, read_split
    from retinanet_fast.engine.demo import Demo, render, run_demo
    from retinanet_fast.engine.demo_data import RenderOptions

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
    recipe = _recipe(options.recipe or ("demo" if rendered else "quick"), options)
    splits = []
    for split in ("train", "val"):
        location = _required(locate(data, split), data, split)
        splits.append(read_split(location, problems))
        print(f"{split}: {_amount(splits[-1])}", flush=True)
    demo = Demo(recipe, splits[0], splits[1], options.out, device, problems, rendered, started, _say)
    page = run_demo(demo)
    _say_skipped(problems)
    print(f"{time.perf_counter() - started:.0f} s in all; see {page}")


def _info(options: argparse.Namespace) -> None:
    from retinanet_fast.engine.environment import describe

    rows = describe()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _bench(words: list[str]) -> int:
    """The benchmarks live beside the package in the source tree, or in the folder one is in."""
    for folder in (Path(__file__).resolve().parents[1], Path.cwd()):
        if (folder / "benchmarks" / "__main__.py").is_file():
            paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            try:
                return subprocess.call([sys.executable, "-m", "benchmarks", *words], env=environment)
            except KeyboardInterrupt:
                return 130
    return _fail("bench: the benchmarks come with the source tree: run it in that folder", 2)


# Data


def _required(location: Location | None, data: Path, split: str) -> Location:
    if location is None:
        names = f"annotations/instances_{split}.json, nor COCO's instances_{split}2017.json"
        raise InputError(f"{data}: no {names}")
    return location


def _location(options: argparse.Namespace, split: str) -> Location | None:
    """A split by its own flags, or below ``--data``."""
    from retinanet_fast.engine.coco import Location, locate

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
    if problems.messages:
        print(f"{PROGRAM}: {problems.summary()}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
