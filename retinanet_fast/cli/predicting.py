"""``retinanet-fast predict``, alone or under torchrun."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from retinanet_fast.cli.evaluating import running_recipe
from retinanet_fast.cli.inputs import say, say_skipped
from retinanet_fast.cli.predict_flags import MANY
from retinanet_fast.engine.errors import InputError, Problems, Stopped
from retinanet_fast.engine.threads import Load, set_threads

if TYPE_CHECKING:
    from retinanet_fast.engine.prediction.pictures import Pictures
    from retinanet_fast.engine.prediction.predict import Predictions
    from retinanet_fast.engine.processes import Processes


def predict_command(options: argparse.Namespace) -> None:
    """Detect on what the command line names, and say what was written."""
    start = Load.now()
    from PIL import Image  # noqa: F401  # first of what may be missing

    from retinanet_fast.engine.build_model import choose_device
    from retinanet_fast.engine.prediction.sources import list_pictures
    from retinanet_fast.engine.processes import joined
    from retinanet_fast.engine.signals import stop_requests

    if options.batch_size < 0:
        raise InputError(f"--batch-size: expected a number above 0, got {options.batch_size}")
    problems = Problems(options.skip_bad)
    device = choose_device(options.device)

    def check() -> None:
        if stop.signal_number is not None:
            raise Stopped(stop.signal_number, "what is written is whole; --resume goes on")

    with joined(device) as processes, stop_requests() as stop:
        pictures = None
        with processes.patiently():
            if processes.is_main:
                pictures = list_pictures(options.pictures, options.out)
        done = _predict(options, processes.share(pictures), problems, processes, start, check)
    if done is not None:
        say_skipped(problems)
        _say_done(options, done)


def _predict(
    options: argparse.Namespace,
    pictures: Pictures,
    problems: Problems,
    processes: Processes,
    start: Load,
    check: Callable[[], None],
) -> Predictions | None:
    from retinanet_fast.engine import checkpoint as checkpoints
    from retinanet_fast.engine.build_model import choose_device
    from retinanet_fast.engine.files import sha256_of
    from retinanet_fast.engine.precision import describe
    from retinanet_fast.engine.prediction.predict import PredictOptions, predict, restore_model

    device = processes.own_device(choose_device(options.device))
    state = checkpoints.load(options.checkpoint)
    recipe = running_recipe(state.recipe, options)
    if options.workers is not None:
        recipe = recipe.replace(workers=options.workers)
    model = restore_model(state, options.checkpoint, device)
    draw = options.draw if options.draw is not None else len(pictures) < MANY
    if processes.is_main:
        where = f"{device}, {set_threads(recipe.threads, start)}, {describe(recipe.precision, device)}"
        where += f", {processes.world_size} processes" if processes.world_size > 1 else ""
        say(f"predict: {len(pictures)} pictures, on {where}")
        if options.draw is None and not draw:
            say(f"not drawn, since they are {MANY} or more: --draw draws them")
    else:
        set_threads(recipe.threads, start)
    wanted = PredictOptions(
        out=options.out,
        score=options.score,
        draw=draw,
        batch_size=options.batch_size,
        resume=options.resume,
        overwrite=options.overwrite,
        made_by=sha256_of(checkpoints.find(options.checkpoint)),
    )
    return predict(model, state.categories, recipe, pictures, wanted, problems, processes, check)


def _say_done(options: argparse.Namespace, done: Predictions) -> None:
    what = [f"{done.detected} pictures"]
    if done.unreadable:
        what.append(f"{done.unreadable} that cannot be read")
    if done.drawn:
        what.append(f"{done.drawn} boxes of score >= {options.score:g} drawn")
    rate = (
        f"; {done.images_per_second:.1f} images/s" if done.images_per_second else "; nothing was left to do"
    )
    print(f"{options.out}: {', '.join(what)}; detections.jsonl, detections.json{rate}")
