"""Detections as arrays in a run's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_run import finding_model, render, tiny_recipe, tiny_run

from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.evaluation.results import (
    COLUMNS,
    Detected,
    Results,
    from_list,
    load_detected,
    save_detected,
)
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.train import train


def assert_same(found: Detected, expected: Detected) -> None:
    """To the bit: type and values of every array."""
    for name in COLUMNS:
        a, b = getattr(found.results, name), getattr(expected.results, name)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.array_equal(a, b)
    assert (found.image_ids, found.images_per_second) == (expected.image_ids, expected.images_per_second)
    assert found.epoch == expected.epoch


def test_what_is_written_is_read(tmp_path: Path) -> None:
    box = np.array([[0.1, 1 / 3, 1e-300, 1e300], [1, 2, 3, 4]])
    results = Results(np.array([7, 2**62 + 1]), np.array([3, 90]), box, np.array([0.1 + 0.2, 1.0]))
    for found in (
        Detected(results, [7, 9, 2**62 + 1], 12.5, epoch=3),
        Detected(from_list([]), [], 0.0),
    ):
        save_detected(tmp_path / "detections.npz", found)
        assert_same(load_detected(tmp_path / "detections.npz"), found)
    assert [path.name for path in tmp_path.iterdir()] == ["detections.npz"]


def test_a_run_leaves_those_of_its_last_evaluation(tmp_path: Path) -> None:
    run = tiny_run(render(tmp_path / "data"), tmp_path / "run", tiny_recipe(epochs=2))
    train(run, model=finding_model())
    assert run.detected is not None
    assert len(run.detected.results) > 0
    assert run.detected.epoch == 2
    assert_same(load_detected(RunFolder(tmp_path / "run").detections), run.detected)


def test_a_file_that_is_missing_or_damaged_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "detections.npz"
    with pytest.raises(InputError, match=r"detections\.npz: no such file"):
        load_detected(file)
    save_detected(file, Detected(from_list([]), [1], 1.0))
    whole = file.read_bytes()
    arrays = dict(np.load(file))
    uneven = {**arrays, "score": np.zeros(2)}
    for content in (b"", b"npz", whole[: len(whole) // 2], {"score": np.zeros(1)}, uneven):
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            np.savez(file, **content)
        with pytest.raises(InputError, match=r"detections\.npz: expected detections"):
            load_detected(file)
