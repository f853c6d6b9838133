"""An evaluation shared out to processes finds what one process finds; and none waits for one that failed."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import data_sets
import pytest
import torch
from children import HERE, child_environment
from evaluation_process import BATCH_SIZES, all_cases

from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.checkpoint import Checkpoint
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.processes import Processes
from retinanet_fast.engine.recipe import Recipe

# Seconds that any of these may take on a busy machine: a hang is an error.
LIMIT = 120
FOX = {"id": 9, "name": "fox"}
IDS = [31, 7, 5, 1000, 2**55 + 1, 12, 8]  # not in order; one that float64 does not hold


class Ended(NamedTuple):
    """A process that has come to its end."""

    code: int
    output: str
    errors: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 7 images, each of its own size: what a batch is padded to depends on its images."""
    path = tmp_path_factory.mktemp("data")
    images = [
        {"id": id, "file_name": f"{place}.png", "width": 40 + 9 * place, "height": 90 - 7 * place}
        for place, id in enumerate(IDS)
    ]
    boxes = [{"id": 1, "image_id": IDS[0], "category_id": 5, "bbox": [4, 6, 10, 8], "area": 80, "iscrowd": 0}]
    names = [*data_sets.CATEGORIES, FOX]
    data_sets.write(path, {"images": images, "annotations": boxes, "categories": names}, "val")
    return path


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """The same, but the fourth image cannot be decoded; in batches of two it is the second process's."""
    copy = Path(shutil.copytree(folder, tmp_path_factory.mktemp("bad") / "data"))
    data_sets.truncate(copy / "images" / "3.png")
    return copy


def run(what: str, folder: Path, bad: Path) -> list[Ended]:
    """Two processes with the variables that torchrun sets; the first keeps the store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = [sys.executable, str(HERE / "evaluation_process.py"), what, str(folder), str(bad)]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            words,
            env=child_environment(**common, RANK=str(rank), LOCAL_RANK=str(rank)),
            cwd=HERE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = []
        for process in started:
            output, errors = process.communicate(timeout=LIMIT)
            ended.append(Ended(process.returncode, output, errors))
        return ended
    finally:
        for process in started:
            process.kill()


def printed(ended: list[Ended]) -> list[Any]:
    for one in ended:
        assert one.code == 0, one.errors
    return [json.loads(one.output) for one in ended]


@pytest.fixture(scope="module")
def shared(folder: Path, bad: Path) -> dict[str, Any]:
    """What two processes find, case by case."""
    found, nothing = printed(run("cases", folder, bad))
    assert nothing is None
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def alone(folder: Path, bad: Path) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = all_cases(folder, bad, Processes())
    torch.set_num_threads(threads)
    assert found is not None
    return found


def test_two_processes_find_what_one_finds_to_the_bit(shared: dict[str, Any], alone: dict[str, Any]) -> None:
    assert shared == alone


@pytest.mark.parametrize("size", BATCH_SIZES)
def test_no_image_is_left_out_or_taken_twice(shared: dict[str, Any], size: int) -> None:
    found = shared[f"batch {size}"]
    assert found["image_ids"] == sorted(IDS)
    with_detections = [result["image_id"] for result in found["results"]]
    assert with_detections == sorted(with_detections)
    assert set(with_detections) == set(IDS)
    for image_id in IDS:
        scores = [result["score"] for result in found["results"] if result["image_id"] == image_id]
        assert scores == sorted(scores, reverse=True)  # the model's order


def test_one_image_and_two_processes(shared: dict[str, Any]) -> None:
    assert shared["one image"]["image_ids"] == IDS[:1]


def test_a_bad_image_of_another_process_is_left_out_and_told(shared: dict[str, Any]) -> None:
    assert shared["bad image"]["image_ids"] == sorted(set(IDS) - {IDS[3]})
    assert len(shared["told"]) == 1
    assert "3.png: not a readable image" in shared["told"][0]


def test_what_one_process_raises_all_raise(folder: Path, bad: Path) -> None:
    for rank, raised in enumerate(printed(run("errors", folder, bad))):
        bad_image, stopped, defect, empty = raised
        assert bad_image.startswith("InputError: ")
        assert "3.png: not a readable image" in bad_image
        assert stopped == "Stopped: asked to"
        assert defect.startswith(
            "ZeroDivisionError" if rank == 1 else "ProcessLost: process 1 failed: ZeroDivisionError"
        )
        assert empty.startswith("InputError: ")
        assert "no usable image" in empty


def test_the_main_process_may_work_for_longer_than_a_collective_call_waits(folder: Path, bad: Path) -> None:
    assert printed(run("busy", folder, bad)) == [0, 0]


def test_the_others_leave_when_the_main_process_is_killed(folder: Path, bad: Path) -> None:
    main, other = run("killed", folder, bad)
    assert main.code == -signal.SIGKILL
    assert other.code == 1
    assert "the process that keeps the others together is gone" in other.errors


def evaluate_by_program(launcher: list[str], words: list[str], out: Path) -> tuple[str, list[Any]]:
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "retinanet_fast", "eval", *words, "--out", str(out)],
        env=child_environment(OMP_NUM_THREADS="1"),
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def test_the_program_under_torchrun(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="evaluation needs pycocotools")
    recipe = Recipe(
        arch="resnet18", fpn_channels=8, min_size=[64], max_size=64, score_thresh=0.0, batch_size=2, workers=0
    )
    torch.manual_seed(0)
    categories = [Category(entry["id"], entry["name"]) for entry in [*data_sets.CATEGORIES, FOX]]
    state = Checkpoint(build_model(recipe, 4).state_dict(), recipe, categories, epoch=0)
    state.save(tmp_path / "last.pt")
    words = [
        "--checkpoint",
        str(tmp_path),
        "--data",
        str(folder),
        "--device",
        "cpu",
        "--precision",
        "float32",
    ]
    alone, expected = evaluate_by_program([], words, tmp_path / "alone.json")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    shared, found = evaluate_by_program(torchrun, words, tmp_path / "shared.json")
    assert found == expected
    assert {result["image_id"] for result in found} == set(IDS)
    assert "on cpu, 1 thread (OMP_NUM_THREADS), float32, 2 processes" in shared
    # Once each: the main process speaks. The first two lines say how many processes and how fast.
    assert shared.splitlines()[2:] == alone.splitlines()[2:]
