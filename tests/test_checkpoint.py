"""Checkpoints are whole, safe to load, and go on where they stopped."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from data_sets import checkpoint
from torch import nn

from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.files import write_atomically, write_text


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = checkpoint(min_size=[200, 240])
    saved.save(tmp_path / checkpoints.LAST)
    for source in (tmp_path, tmp_path / checkpoints.LAST):
        found = checkpoints.load(source)
        assert torch.equal(found.model["weight"], saved.model["weight"])
        assert (found.recipe, found.categories, found.epoch) == (saved.recipe, saved.categories, 3)
        assert (found.optimizer, found.history) == (saved.optimizer, saved.history)
        assert found.settings.frozen_eps == 0.25


def test_a_checkpoint_holds_nothing_that_runs(tmp_path: Path) -> None:
    checkpoint().save(tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True)["format"] == checkpoints.FORMAT


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": checkpoints.FORMAT, "model": _Evil()}, "evil.pt")
    Path("plain.pt").write_bytes(pickle.dumps(_Evil(), protocol=2))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(InputError, match=rf"^{name}: not a file of weights"):
            checkpoints.load(Path(name))
    assert not Path("evil").exists()


def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    checkpoint().save(whole)
    half = tmp_path / "half.pt"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    text = tmp_path / "text.pt"
    text.write_text("no checkpoint")
    empty = tmp_path / "empty.pt"
    empty.write_bytes(b"")
    state = tmp_path / "state.pt"
    torch.save(checkpoint().model, state)
    for path in (half, text, empty, state, tmp_path / "gone.pt"):
        with pytest.raises(InputError) as caught:
            checkpoints.load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"last\.pt: no such checkpoint"):
        checkpoints.load(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    weight, bias = model.weight.detach(), model.bias.detach()
    source = tmp_path / "x.pt"
    for state, fault in (
        ({"bias": bias}, r"1 missing \(weight\)"),
        ({"weight": weight, "bias": bias, "extra": bias}, r"1 not used \(extra\)"),
        ({"weight": torch.zeros(2, 4), "bias": bias}, r"weight \[2, 4\], expected \[2, 3\]"),
    ):
        with pytest.raises(InputError, match=rf"x\.pt: weights of another model: .*{fault}"):
            checkpoints.restore(model, replace(checkpoint(), model=state), source)


class Detector(nn.Module):
    """A detector in small: a ResNet's name, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"body": nn.ModuleDict({"conv1": nn.Linear(2, 2)})})
        self.head = nn.Linear(2, 5)


def test_start_from_takes_what_fits_and_says_what_does_not(tmp_path: Path) -> None:
    source = nn.ModuleDict({"conv1": nn.Linear(2, 2), "fc": nn.Linear(2, 7)})
    path = tmp_path / "classifier.pt"
    torch.save(source.state_dict(), path)
    model = Detector()
    assert checkpoints.start_from(model, str(path)) == (
        "2 tensors loaded; 2 missing (head.weight, head.bias); 2 not used (fc.weight, fc.bias)"
    )
    assert torch.equal(model.state_dict()["backbone.body.conv1.weight"], source.state_dict()["conv1.weight"])


def test_start_from_refuses_what_would_leave_frozen_layers_as_drawn(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"other\.pt: weights of another model: no tensor fits"):
        checkpoints.start_from(Detector(), str(path))
    torch.save({"conv1.weight": torch.zeros(2, 2), "head.bias": torch.zeros(5)}, path)
    with pytest.raises(InputError, match=r"another backbone: backbone\.body\.conv1\.bias is not taken"):
        checkpoints.start_from(Detector(), str(path))
    with pytest.raises(InputError, match=r"weights 'DEFAULT': of which model"):
        checkpoints.start_from(Detector(), "DEFAULT")


def test_start_from_refuses_weights_of_batch_norm_for_group_norm(tmp_path: Path) -> None:
    """Its weight and bias have the same names and shapes, but another meaning."""
    path = tmp_path / "batch.pt"
    torch.save(nn.ModuleDict({"bn1": nn.BatchNorm2d(4)}).state_dict(), path)
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"body": nn.ModuleDict({"bn1": nn.GroupNorm(2, 4)})})})
    with pytest.raises(
        InputError, match=r"batch\.pt: weights of a backbone with batch norm, but .* is group"
    ):
        checkpoints.start_from(model, str(path))
    torch.save(nn.ModuleDict({"bn1": nn.GroupNorm(2, 4)}).state_dict(), path)
    assert checkpoints.start_from(model, str(path)) == "2 tensors loaded"


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
from data_sets import checkpoint
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
checkpoint(value=2.0).save(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["while writing", "before the new file takes the name"])
def test_a_killed_writer_leaves_the_previous_checkpoint(tmp_path: Path, moment: str) -> None:
    path = tmp_path / checkpoints.LAST
    checkpoint(value=1.0).save(path)
    words = [sys.executable, "-c", _KILLED_WRITER, str(path), str(Path(__file__).parent), moment]
    assert subprocess.run(words, cwd=tmp_path, timeout=120).returncode == -signal.SIGKILL
    assert checkpoints.load(path).model["weight"].unique().tolist() == [1.0]
    # The next one is written all the same.
    checkpoint(value=3.0).save(path)
    assert checkpoints.load(path).model["weight"].unique().tolist() == [3.0]
