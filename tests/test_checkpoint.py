"""Checkpoints are whole, safe to load, and go on where they stopped."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.checkpoint import Checkpoint
from retinanet_fast.engine.coco import Category
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.files import write_atomically, write_text
from retinanet_fast.engine.recipe import Recipe


def example(value: float = 1.0, **recipe: Any) -> Checkpoint:
    return Checkpoint(
        model={"weight": torch.full((2, 3), value), "bias": torch.zeros(2)},
        recipe=Recipe(arch="resnet18", **recipe),
        categories=[Category(2, "cat"), Category(5, "dög")],
        epoch=3,
        optimizer={"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        history=[{"epoch": 1, "AP": 0.5, "curve": [[1.0, 2.0, 3.0]]}],
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = example(min_size=[200, 240])
    saved.save(tmp_path / checkpoints.LAST)
    for source in (tmp_path, tmp_path / checkpoints.LAST):
        found = checkpoints.load(source)
        assert torch.equal(found.model["weight"], saved.model["weight"])
        assert (found.recipe, found.categories, found.epoch) == (saved.recipe, saved.categories, 3)
        assert (found.optimizer, found.history) == (saved.optimizer, saved.history)


def test_a_checkpoint_holds_nothing_that_runs(tmp_path: Path) -> None:
    example().save(tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True)["format"] == checkpoints.FORMAT


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": checkpoints.FORMAT, "model": _Evil()}, "evil.pt")
    Path("plain.pt").write_bytes(pickle.dumps(_Evil(), protocol=2))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(InputError, match=rf"^{name}: not a checkpoint"):
            checkpoints.load(Path(name))
    assert not Path("evil").exists()


def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    example().save(whole)
    half = tmp_path / "half.pt"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    text = tmp_path / "text.pt"
    text.write_text("no checkpoint")
    empty = tmp_path / "empty.pt"
    empty.write_bytes(b"")
    state = tmp_path / "state.pt"
    torch.save(example().model, state)
    for path in (half, text, empty, state, tmp_path / "gone.pt"):
        with pytest.raises(InputError) as caught:
            checkpoints.load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"last\.pt: no such checkpoint"):
        checkpoints.load(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    state = dict(model.state_dict())
    source = tmp_path / "x.pt"
    with pytest.raises(InputError, match=r"x\.pt: a checkpoint of another model: it lacks weight"):
        checkpoints.load_model(model, {"bias": state["bias"]}, source)
    with pytest.raises(InputError, match=r"another model: it has extra"):
        checkpoints.load_model(model, {**state, "extra": state["bias"]}, source)
    with pytest.raises(InputError, match=r"another model: weight is \[2, 4\], expected \[2, 3\]"):
        checkpoints.load_model(model, {**state, "weight": torch.zeros(2, 4)}, source)


def test_start_from_takes_what_fits(tmp_path: Path) -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.ModuleDict({"body": nn.ModuleDict({"conv1": nn.Linear(2, 2)})})
            self.head = nn.Linear(2, 5)

    source = nn.ModuleDict({"conv1": nn.Linear(2, 2), "fc": nn.Linear(2, 7)})
    torch.save(source.state_dict(), tmp_path / "classifier.pt")
    model = Detector()
    assert checkpoints.start_from(model, tmp_path / "classifier.pt") == 2
    assert torch.equal(model.state_dict()["backbone.body.conv1.weight"], source.state_dict()["conv1.weight"])
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: weights of another model: no tensor fits"):
        checkpoints.start_from(model, tmp_path / "other.pt")


def test_an_error_while_writing_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "previous")

    def fail(file: Any) -> None:
        file.write(b"half of the n")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "previous"
    assert list(tmp_path.iterdir()) == [path]


_KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from test_checkpoint import example
from retinanet_fast.engine import files
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "while writing":
    torch_save = torch.save
    def half(content, file):
        torch_save(content, file)
        file.truncate(file.tell() // 2)
        file.flush()
        kill()
    torch.save = half
else:
    files.os.replace = kill
example(value=2.0).save(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["while writing", "before the new file takes the name"])
def test_a_killed_writer_leaves_the_previous_checkpoint(tmp_path: Path, moment: str) -> None:
    path = tmp_path / checkpoints.LAST
    example(value=1.0).save(path)
    words = [sys.executable, "-c", _KILLED_WRITER, str(path), str(Path(__file__).parent), moment]
    assert subprocess.run(words, timeout=120).returncode == -signal.SIGKILL
    assert checkpoints.load(path).model["weight"].unique().tolist() == [1.0]
    # The next one is written all the same.
    example(value=3.0).save(path)
    assert checkpoints.load(path).model["weight"].unique().tolist() == [3.0]
