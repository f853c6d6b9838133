"""A run of several processes is the run of one, and none waits for one that died."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import data_sets
import joined_run
import pytest
import torch
from children import HERE, child_environment
from tiny_run import render, tiny_recipe

from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.recipe import Recipe

# Twenty-one steps of 8 images, or of 7 at the end of an epoch: shares of 4 and 3. Sums of two processes are rounded
# otherwise than those of one, which momentum carries on; AdamW would make of a rounded zero a whole step.
RECIPE = {"batch_size": 8, "epochs": 7, "optimizer": "sgd", "lr": 0.01, "ema_decay": 0.0, "eval_every": 7}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 images, of which one cannot be read: it is met by one process, and replaced."""
    folder = render(tmp_path_factory.mktemp("rendered"))
    data_sets.truncate(sorted((folder / "images" / "train").iterdir())[9])
    return folder


def start(rank: int, world_size: int, port: int, *words: object) -> subprocess.Popen[str]:
    """One process, as torchrun starts it."""
    environment = child_environment(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    command = [sys.executable, HERE / "joined_run.py", *map(str, words)]
    return subprocess.Popen(
        command, env=environment, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def write(recipe: Recipe, folder: Path) -> Path:
    file = folder / "recipe-of-the-test.toml"
    file.write_text(recipe.to_toml())
    return file


def run_two(data: Path, out: Path, recipe_file: Path, *words: str) -> list[tuple[int, str]]:
    """Exit codes and error streams of two processes."""
    port = free_port()
    processes = [start(rank, 2, port, data, out, recipe_file, *words) for rank in range(2)]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors)]


def largest_difference(a: Path, b: Path) -> float:
    x, y = checkpoints.load(a).model, checkpoints.load(b).model
    return max(float((x[name] - y[name]).abs().max()) for name in x)


def test_two_processes_train_as_one_does(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(**RECIPE)
    joined_run.go(data, tmp_path / "one", recipe)
    done = run_two(data, tmp_path / "two", write(recipe, tmp_path))
    assert [code for code, _ in done] == [0, 0], done
    one, two = (checkpoints.load(tmp_path / name) for name in ("one", "two"))
    assert one.progress is not None
    assert one.progress == two.progress
    assert one.progress.step == 21
    # The weights have changed by up to 0.1; the bar of what rounding may make of it.
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-6
    for a, b in zip(one.history, two.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["images"] == b["images"] == 23
    assert one.history[-1]["AP50"] == pytest.approx(two.history[-1]["AP50"], abs=1e-6)


def test_two_processes_that_score_beside_training(data: Path, tmp_path: Path) -> None:
    """As two that score in place, to the bit: the main one alone has a process that scores."""
    recipe = tiny_recipe(**{**RECIPE, "epochs": 3, "eval_every": 1, "score_thresh": 0.0, "lr": 0.1})
    for name, beside in (("in place", False), ("beside", True)):
        done = run_two(data, tmp_path / name, write(recipe.replace(score_beside=beside), tmp_path))
        assert [code for code, _ in done] == [0, 0], done
    one, two = (checkpoints.load(tmp_path / name) for name in ("in place", "beside"))
    assert largest_difference(tmp_path / "in place", tmp_path / "beside") == 0
    assert [str(record["AP"]) for record in one.history] == [str(record["AP"]) for record in two.history]
    assert any(record["AP"] > 0 for record in one.history)
    bests = [checkpoints.load(tmp_path / name / checkpoints.BEST).epoch for name in ("in place", "beside")]
    assert bests[0] == bests[1]
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("in place", "beside")]
    assert names[0] == names[1]


def test_parts_of_a_batch_train_as_the_whole(data: Path, tmp_path: Path) -> None:
    for name, accumulate in (("one", 1), ("three", 3)):
        joined_run.go(data, tmp_path / name, tiny_recipe(**RECIPE, accumulate=accumulate))
    assert largest_difference(tmp_path / "one", tmp_path / "three") < 1e-6


def test_the_others_leave_when_one_is_killed_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(**RECIPE, checkpoint_minutes=1e-3 / 60)
    file = write(recipe, tmp_path)
    begun = time.monotonic()
    (left, error), (killed, _) = run_two(data, tmp_path / "two", file, "kill")
    assert time.monotonic() - begun < 60
    assert killed == -9
    assert left == 1
    assert "--resume goes on from the last checkpoint" in error
    assert [code for code, _ in run_two(data, tmp_path / "two", file)] == [0, 0]
    joined_run.go(data, tmp_path / "one", recipe)
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-6
    assert torch.isfinite(torch.tensor(checkpoints.load(tmp_path / "two").history[-1]["loss"]))
