"""A run's folder: its lock, what is removed from it and when, and ``run.json``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import data_sets
import pytest
import torch
from children import HERE, child_environment

from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.run_record import DataRecord, RunRecord, source_commit

CPU = torch.device("cpu")
# Holds the lock, forks a child as a DataLoader does, says so, and waits.
HOLDER = """
import os, sys, time
from pathlib import Path
from retinanet_fast.engine.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


@contextmanager
def another_program(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A second process that holds the lock; it is gone, and its child too, after the block."""
    words = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env=child_environment(), cwd=HERE
    ) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            yield holder
        finally:
            holder.kill()
            os.kill(child, signal.SIGKILL)


def record(tmp_path: Path, **recipe: object) -> RunRecord:
    """Of a run on two images."""
    data = tmp_path / "data"
    data_sets.write(data, data_sets.document())
    location = locate(data, "train")
    assert location is not None
    split = read_split(location, Problems(False))
    made = RunRecord(Recipe(**recipe), {"train": DataRecord.of(split)}, skip_bad=True)  # type: ignore[arg-type]
    return made.started(CPU, processes=2)


def test_a_second_program_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    unfinished = tmp_path / ".last.pt.abc123.part"
    with another_program(tmp_path) as holder:
        unfinished.touch()
        refusal = pytest.raises(InputError, match=f"{tmp_path}: another program is writing there")
        with refusal, RunFolder(tmp_path).locked():
            pass
        assert unfinished.exists()  # the other program's
        holder.kill()
        holder.wait()
        # Its child still lives, as a loader's processes do for some seconds.
        with RunFolder(tmp_path).locked():
            assert not unfinished.exists()


def test_only_a_run_s_unfinished_files_are_removed(tmp_path: Path) -> None:
    names = (
        ".best.pt.a.part",
        ".step_00000010.pt.a.part",
        "samples/.epoch_001.jpg.a.part",
        ".metrics.csv.a.part",
    )
    others = (".model.onnx.a.part", "last.pt", "notes.part")
    for name in (*names, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with RunFolder(tmp_path).locked():
        assert [name for name in names if (tmp_path / name).exists()] == []
        assert all((tmp_path / name).exists() for name in others)


def test_a_new_run_leaves_the_old_one_whole_until_it_has_a_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    old = record(tmp_path, epochs=3)
    folder.start(old)
    old_files = [folder.last, folder.best, folder.metrics, folder.kept(10), folder.sample(1)]
    old_files += [folder.tensorboard / "events.out.tfevents.1"]
    for file in old_files:
        write_text(file, "old")
    write_text(folder.path / "notes.txt", "not a run's")

    new = record(tmp_path, epochs=4)
    folder.start(new)
    assert {file.read_text() for file in old_files} == {"old"}
    assert folder.read() == old
    write_text(folder.last, "new")
    write_text(folder.best, "new")  # may come before or after the call
    folder.begin_anew()
    assert [file.name for file in old_files if file.exists()] == ["last.pt", "best.pt"]
    assert folder.best.read_text() == "new"
    assert (folder.path / "notes.txt").exists()
    assert folder.read() == new
    assert recipes.load(str(folder.path / "recipe.toml")).epochs == 4
    write_text(folder.metrics, "new")
    folder.begin_anew()
    assert folder.metrics.exists()


def test_a_resume_after_a_kill_between_the_first_checkpoint_and_the_removal(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.start(record(tmp_path))
    for file in (folder.last, folder.best):
        write_text(file, "old")
    new = record(tmp_path)
    RunFolder(folder.path).start(new)
    write_text(folder.last, "new")  # and killed here; the checkpoint holds the record
    RunFolder(folder.path).start(new.started(CPU, processes=1, step=5))
    assert not folder.best.exists()
    assert folder.read() == new


def test_a_resume_keeps_the_files_and_appends_a_start(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.start(record(tmp_path))
    for file in (folder.last, folder.best):
        write_text(file, "weights")
    folder.start(folder.read().started(CPU, processes=1, step=5))
    assert folder.best.exists()
    assert [(start.step, start.processes, start.device) for start in folder.read().starts] == [
        (0, 2, "cpu"),
        (5, 1, "cpu"),
    ]
    (folder.path / "run.json").write_text("{")
    folder.start(record(tmp_path).started(CPU, processes=1, step=6))
    assert folder.best.exists()


def test_the_record_says_where_the_data_is_and_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = record(Path())
    train = made.data["train"]
    assert (train.images, train.boxes, train.categories) == (2, 2, ["cat", "dog"])
    monkeypatch.chdir("/")
    again = read_split(train.location, Problems(False))
    assert [image.path.is_file() for image in again.images] == [True, True]
    made.check_data({"train": DataRecord.of(again)})
    again.annotations.write_text(json.dumps({**data_sets.document(), "annotations": []}))
    changed = {"train": DataRecord.of(read_split(train.location, Problems(False)))}
    with pytest.raises(
        InputError, match=r"changed since .*expected 2 images, 2 boxes .*found 2 images, 0 boxes"
    ):
        made.check_data(changed)
    with pytest.raises(InputError, match=r"val: .*there is such a split now, but none then"):
        made.check_data({"train": train, "val": train})


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "retinanet_fast run 2"}', "a record without starts"]
)
def test_a_damaged_record_is_an_error(tmp_path: Path, content: str) -> None:
    if content.startswith("a record"):
        content = json.dumps({**record(tmp_path).to_dict(), "starts": [{}]})
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json: "):
        RunFolder(tmp_path).read()


def test_the_commit_is_that_of_the_source_tree() -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("the tests lie outside a git work tree")
    commit = source_commit()
    if commit is None:
        pytest.skip("the package is installed, not in the source tree")
    assert commit.removesuffix("-dirty") == done.stdout.strip()
