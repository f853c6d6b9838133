"""What each command does: it asks the engine and prints."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from retinanet_fast.cli.inputs import amount, required, say, say_skipped
from retinanet_fast.cli.recipe_flags import recipe_of
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.threads import Load, set_threads


def demo_command(options: argparse.Namespace) -> None:
    load = Load.now()
    from retinanet_fast.engine.build_model import choose_device
    from retinanet_fast.engine.data.rendered import RenderOptions
    from retinanet_fast.engine.data.sources import locate, read_split
    from retinanet_fast.engine.demo import Demo, render, run_demo
    from retinanet_fast.engine.precision import describe

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
        render(data, rendered, say)
    recipe = recipe_of(options.recipe or ("demo" if rendered else "quick"), options)
    say(f"train on {device}, {set_threads(recipe.threads, load)}, {describe(recipe.precision, device)}")
    splits = []
    for split in ("train", "val"):
        location = required(locate(data, split), data, split)
        splits.append(read_split(location, problems))
        print(f"{split}: {amount(splits[-1])}", flush=True)
    demo = Demo(recipe, splits[0], splits[1], options.out, device, problems, rendered, started, say)
    page = run_demo(demo)
    say_skipped(problems)
    print(f"{time.perf_counter() - started:.0f} s in all; see {page}")


def info_command(options: argparse.Namespace) -> None:
    from retinanet_fast.engine.environment import describe

    rows = describe()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def bench_command(words: list[str]) -> int:
    """The benchmarks' own exit code; they lie beside the package in the source tree, or in the working folder."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (folder / "benchmarks" / "__main__.py").is_file():
            paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            return subprocess.call([sys.executable, "-m", "benchmarks", *words], env=environment)
    raise InputError("bench: the benchmarks come with the source tree: run it in that folder")
