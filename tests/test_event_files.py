"""TensorBoard's event files, read back by TensorBoard."""

from __future__ import annotations

from pathlib import Path

import run_stand_in
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.reporting.event_files import TensorBoard
from retinanet_fast.engine.run_folder import RunFolder


def read(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """The scalars that TensorBoard shows, as (step, value)."""
    events = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_numbers_over_the_steps(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run_stand_in.go(run_stand_in.stand_in(tmp_path), [TensorBoard(folder)], 12)
    found = read(folder)
    assert found["loss/classification"] == [(step, step / 4) for step in range(1, 13)]
    assert found["loss/total"] == [(step, 3 * step / 8) for step in range(1, 13)]
    assert found["learning_rate"] == [(step, 0.5) for step in range(1, 13)]
    assert found["seconds/forward"] == [(4, 1.5), (8, 1.5), (12, 1.5)]
    assert found["speed/images_per_second"] == [(4, 2.0), (8, 2.0), (12, 2.0)]
    assert [step for step, _ in found["coco/AP50"]] == [8]  # every second epoch
    assert "coco/APL" not in found  # NaN: no large boxes


def test_nothing_is_there_twice_after_a_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run = run_stand_in.stand_in(tmp_path)
    run_stand_in.go(run, [TensorBoard(folder)], 8)
    assert [step for step, _ in read(folder)["seconds/forward"]] == [4, 8]
    run.state.step, run.history = 4, run.history[:1]  # the checkpoint is that of the first epoch
    run_stand_in.go(
        run, [TensorBoard(folder)], 6
    )  # within the second epoch: the first start's steps 7 and 8 are gone
    assert [step for step, _ in read(folder)["loss/total"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in read(folder)["seconds/forward"]] == [4]


def test_an_old_run_is_left_alone_until_the_first_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_text(folder.last, "an old run's")
    run = run_stand_in.stand_in(tmp_path)
    hook = TensorBoard(folder)
    run_stand_in.go(run, [hook], 3)
    assert not folder.tensorboard.exists()
    write_text(folder.last, "the new run's")
    hook.after_save(run)  # within the first epoch
    assert [step for step, _ in read(folder)["loss/total"]] == [1, 2, 3]


def test_steps_of_a_start_that_left_no_checkpoint_are_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run = run_stand_in.stand_in(tmp_path)
    run_stand_in.go(run, [TensorBoard(folder)], 3)
    run.state.step = 0
    run_stand_in.go(run, [TensorBoard(folder)], 2)
    assert [step for step, _ in read(folder)["loss/total"]] == [1, 2]
