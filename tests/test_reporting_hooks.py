"""Which hooks a run has."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinanet_fast.engine.errors import describe_import_error
from retinanet_fast.engine.reporting import hooks
from retinanet_fast.engine.reporting.event_files import TensorBoard
from retinanet_fast.engine.run_folder import RunFolder


@pytest.mark.parametrize("wanted", [True, False])
def test_event_files_are_written_where_wanted(tmp_path: Path, wanted: bool) -> None:
    made = hooks.reporting_hooks(RunFolder(tmp_path), wanted)
    assert any(isinstance(hook, TensorBoard) for hook in made) is wanted


def test_without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert hooks.choose_tensorboard(None, said.append)
    assert not hooks.choose_tensorboard(False, said.append)
    assert said == []
    monkeypatch.setattr(hooks.util, "find_spec", lambda name: None)
    assert not hooks.choose_tensorboard(None, said.append)
    assert "tensorboard is not installed" in said.pop()
    assert not hooks.choose_tensorboard(False, said.append)
    assert said == []
    with pytest.raises(ModuleNotFoundError) as found:
        hooks.choose_tensorboard(True, said.append)
    assert "this needs tensorboard" in describe_import_error(found.value)
