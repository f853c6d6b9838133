"""A prediction that is killed at any moment, and resumed, ends with the very bytes of one that was not."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import data_sets
import numpy as np
import prediction_process
import pytest
from children import HERE
from PIL import Image

from retinanet_fast.engine.prediction.lines import read_lines

PICTURES = 45  # in windows of 16: the last is not whole
UNREADABLE = 20


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three shapes in turns, so that a batch's pictures do not follow each other; one cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for index in range(PICTURES):
        shape = ((48, 64, 3), (64, 48, 3), (64, 64, 3))[index % 3]
        Image.fromarray(generator.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{index:03d}.png")
    data_sets.truncate(folder / f"{UNREADABLE:03d}.png")
    return folder


@pytest.fixture(scope="module")
def server() -> Any:
    """Starts processes that have torch and the package loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prediction_process"])
    here = Path.cwd()
    os.chdir(HERE)  # the server imports from where it starts; the source tree may hide an installed package
    try:
        forkserver.ensure_running()
    finally:
        os.chdir(here)
    return context


def in_processes(server: Any, *calls: tuple[Callable[..., None], tuple[Any, ...]]) -> list[int]:
    """Their exit codes."""
    processes = [server.Process(target=function, args=arguments) for function, arguments in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert None not in [process.exitcode for process in processes]
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def whole(server: Any, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, float]:
    """The folder of an undisturbed prediction, the moments of its calls for files, and its seconds."""
    folder = tmp_path_factory.mktemp("whole")
    out, result = folder / "out", folder / "calls"
    assert in_processes(server, (prediction_process.counted, (pictures, out, result))) == [0]
    calls, seconds = result.read_text().split()
    return out, int(calls), float(seconds)


def assert_same(found: Path, expected: Path) -> None:
    names = {path.name for path in expected.iterdir()}
    assert {path.name for path in found.iterdir()} == names
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def test_each_picture_has_its_line_in_order(whole: tuple[Path, int, float]) -> None:
    lines = list(read_lines(whole[0] / "detections.jsonl"))
    assert [line.file_name for line in lines] == [f"{index:03d}.png" for index in range(PICTURES)]
    assert [line.image_id for line in lines] == list(range(PICTURES))  # the numbers in their names
    assert [index for index, line in enumerate(lines) if line.error] == [UNREADABLE]
    assert sum(path.suffix == ".png" for path in whole[0].iterdir()) == PICTURES - 1


@pytest.mark.parametrize(("workers", "kills"), [(0, 12), (2, 4)])
def test_killed_at_any_moment(
    server: Any, pictures: Path, tmp_path: Path, whole: tuple[Path, int, float], workers: int, kills: int
) -> None:
    expected, calls, seconds = whole
    draw = random.Random(workers)
    killed = chain = 0
    while killed < kills:
        chain += 1
        out = tmp_path / f"out-{chain}"
        for _ in range(3):
            by_time = draw.random() < 0.3
            moment = (draw.uniform(0, seconds), None) if by_time else (None, draw.randrange(1, calls))
            call = (prediction_process.until_killed, (pictures, out, workers, *moment))
            (code,) = in_processes(server, call)
            assert code in (0, -signal.SIGKILL)
            killed += code != 0
        assert in_processes(server, (prediction_process.until_killed, (pictures, out, workers))) == [0]
        assert_same(out, expected)


@pytest.mark.parametrize("kills", [0, 2])
@pytest.mark.parametrize("ends_with", [1, 2])
def test_several_processes_write_what_one_writes(
    server: Any, pictures: Path, tmp_path: Path, whole: tuple[Path, int, float], kills: int, ends_with: int
) -> None:
    expected, calls, _ = whole
    out = tmp_path / "out"
    for _ in range(kills):
        moment = calls // 5  # each process makes about half of the calls
        codes = in_processes(server, *two_processes(pictures, out, moment))
        # The one that is killed last may learn before that the other is gone, and end by itself.
        assert set(codes) <= {0, 1, -signal.SIGKILL}
        assert not (out / "detections.json").exists()
    if ends_with == 2:
        assert in_processes(server, *two_processes(pictures, out, None)) == [0, 0]
    else:
        assert in_processes(server, (prediction_process.until_killed, (pictures, out, 0))) == [0]
    assert_same(out, expected)


def two_processes(
    folder: Path, out: Path, file_call: int | None
) -> list[tuple[Callable[..., None], tuple[Any, ...]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [(prediction_process.one_of_two, (folder, out, rank, port, file_call)) for rank in range(2)]
