"""A run that is killed at any moment, and resumed, ends with the very weights of one that was not."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import killed_run
import pytest
import torch
from children import HERE
from tiny_run import beside_recipe, render, tiny_recipe

from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.evaluation.results import load_detected
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.run_folder import RunFolder

# Saves after nearly every step, so that many moments lie within the writing of a checkpoint.
OFTEN = 1e-3 / 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("rendered"))


@pytest.fixture(scope="module")
def server() -> Any:
    """Starts processes that have torch and the package loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_run"])
    here = Path.cwd()
    os.chdir(
        HERE
    )  # the server imports from where it starts, and the source tree may hide an installed package
    try:
        forkserver.ensure_running()
    finally:
        os.chdir(here)
    return context


def recipe(precision: str) -> Recipe:
    return tiny_recipe(precision=precision, checkpoint_minutes=OFTEN, keep_checkpoints=2)


def beside() -> Recipe:
    return beside_recipe(checkpoint_minutes=OFTEN, keep_checkpoints=2)


def in_a_process(server: Any, function: Callable[..., None], *args: Any) -> int:
    process = server.Process(target=function, args=args)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return int(process.exitcode)


def undisturbed(server: Any, data: Path, folder: Path, recipe: Recipe) -> tuple[Path, int, float]:
    """A run's folder, the calls for files that it made, and its seconds."""
    out, result = folder / "undisturbed", folder / "calls"
    assert in_a_process(server, killed_run.count_file_calls, data, out, recipe, result) == 0
    calls, seconds = result.read_text().split()
    return out, int(calls), float(seconds)


def kill_and_resume(server: Any, data: Path, folder: Path, recipe: Recipe, kills: int, seed: int) -> Path:
    """Runs that are killed ``kills`` times in all, half of them while they touch a file, against an undisturbed one,
    which is returned."""
    whole, calls, seconds = undisturbed(server, data, folder, recipe)
    draw = random.Random(seed)
    killed = chain = 0
    while killed < kills:
        chain += 1
        out = folder / f"killed-{chain}"
        # Each part of a chain is killed in its first third: a whole chain has several kills.
        for _ in range(4):
            moment = (
                (draw.uniform(0, seconds / 3), None)
                if draw.random() < 0.5
                else (None, draw.randrange(1, calls // 3))
            )
            code = in_a_process(server, killed_run.run_until_killed, data, out, recipe, *moment)
            assert code in (0, -signal.SIGKILL)
            killed += code != 0
        assert in_a_process(server, killed_run.run_until_killed, data, out, recipe) == 0
        assert_same_run(out, whole)
    return whole


def assert_same_run(found: Path, expected: Path) -> None:
    for name in ("last.pt", "best.pt"):
        a, b = checkpoints.load(found / name), checkpoints.load(expected / name)
        assert_equal(a.model, b.model)
        assert_equal(a.ema, b.ema)
        assert_equal(a.optimizer.get("state", {}), b.optimizer.get("state", {}))
        assert a.epoch == b.epoch
        assert [without_times(record) for record in a.history] == [
            without_times(record) for record in b.history
        ]
    found_last, expected_last = (load_detected(RunFolder(out).detections) for out in (found, expected))
    assert found_last.results.to_list() == expected_last.results.to_list()
    names = sorted(path.name for path in found.iterdir())
    assert names == sorted(path.name for path in expected.iterdir())
    assert not [name for name in names if name.endswith(".part")]


def assert_equal(a: Any, b: Any) -> None:
    """Equal to the bit, tensor for tensor."""
    assert a.keys() == b.keys()
    for name in a:
        if isinstance(a[name], dict):
            assert_equal(a[name], b[name])
        else:
            assert torch.equal(a[name], b[name]), name


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """What a record says of the run and not of the machine; NaN as a word, since it equals nothing."""
    measured = ("seconds", "images_per_second", "eval_images_per_second", "times", "memory_bytes")
    return {name: str(value) for name, value in record.items() if name not in measured}


@pytest.mark.parametrize(("precision", "seed"), [("float32", 0), ("bfloat16", 1)])
def test_twenty_kills_in_each_precision(
    server: Any, data: Path, tmp_path: Path, precision: str, seed: int
) -> None:
    kill_and_resume(server, data, tmp_path, recipe(precision), kills=20, seed=seed)


def test_kills_with_scoring_beside(server: Any, data: Path, tmp_path: Path) -> None:
    """A run that scores in place is what each of them ends as; its best epoch is one that they score beside."""
    whole = kill_and_resume(server, data, tmp_path, beside(), kills=8, seed=3)
    out, calls = tmp_path / "in place", tmp_path / "calls in place"
    in_place = beside().replace(score_beside=False)
    assert in_a_process(server, killed_run.count_file_calls, data, out, in_place, calls) == 0
    assert_same_run(whole, out)
    assert checkpoints.load(whole / "best.pt").epoch == 3


@pytest.mark.slow
def test_a_hundred_kills(server: Any, data: Path, tmp_path: Path) -> None:
    kill_and_resume(server, data, tmp_path, recipe("float32"), kills=200, seed=2)


@pytest.mark.slow
def test_a_hundred_kills_with_scoring_beside(server: Any, data: Path, tmp_path: Path) -> None:
    kill_and_resume(server, data, tmp_path, beside(), kills=100, seed=4)
