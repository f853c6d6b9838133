"""What a run shows while it trains: plots after each epoch, sample detections and the page after each evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.environment import describe
from retinanet_fast.engine.evaluation.analysis import analyse
from retinanet_fast.engine.prediction.draw import save_picture
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.reporting import plots
from retinanet_fast.engine.reporting.each_epoch import EachEpoch
from retinanet_fast.engine.reporting.pictures import Compared, compare, grid
from retinanet_fast.engine.reporting.report import Report
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.hooks import Drawing

if TYPE_CHECKING:
    from retinanet_fast.engine.training.run import Run


class Page(EachEpoch):
    """Draws ``loss.png`` and ``ap.png``, and, where the epoch was evaluated, ``samples/epoch_003.jpg`` and
    ``report.html``.

    Args:
        source: what the model is trained on, in words; by default the data set's folder.
    """

    def __init__(self, folder: RunFolder, source: str = "") -> None:
        super().__init__()
        self.folder = folder
        self.source = source

    def each_epoch(self, run: Run, record: dict[str, Any]) -> None:
        if record["epoch"] == run.drawn:
            return  # by the process that scored it
        with run.clock("pictures"):
            draw(run, self.folder.path, self.source)

    def drawing(self) -> Drawing:
        return partial(draw, source=self.source)

    def report(self, run: Run) -> Report:
        """What the page shows of a run that was just evaluated, anew."""
        assert run.val_split is not None
        assert run.detected is not None
        return run_report(run, self.folder, compare(run.val_split, run.detected), self.source)


def draw(run: Run, out: Path, source: str = "") -> None:
    """Draw the run's last epoch into a folder."""
    folder, record = RunFolder(out), run.history[-1]
    plots.loss_plot(run.history, folder.loss_plot)
    if run.val_split is None or run.detected is None or "AP" not in record:
        return
    plots.ap_plot(run.history, folder.ap_plot)
    compared = compare(run.val_split, run.detected)
    save_picture(grid([one.picture for one in compared]), folder.sample(record["epoch"]))
    run_report(run, folder, compared, source).write(folder.page)


def run_report(run: Run, folder: RunFolder, compared: Sequence[Compared], source: str = "") -> Report:
    """The page of a run that was just evaluated, without op timings."""
    recipe, last, evaluation = run.recipe, run.history[-1], run.evaluation
    assert evaluation is not None
    assert run.val_split is not None
    assert run.detected is not None
    held_out = min(len(run.val_split.images), recipe.eval_images or len(run.val_split.images))
    return Report(
        title=f"{folder.path.resolve().name}: epoch {last['epoch']} of {recipe.epochs}",
        summary=_summary(run, source or str(run.train_split.annotations.parent.parent)),
        figures=[
            (f"{evaluation.numbers['AP50']:.3f}", "AP50, held-out images"),
            (f"{evaluation.numbers['AP']:.3f}", "AP, IoU 0.50 to 0.95"),
            (minutes(sum(record["seconds"] for record in run.history)), "minutes of training"),
            (f"{last['images_per_second']:.1f}", "images/s, training"),
            (f"{last['eval_images_per_second']:.1f}", "images/s, evaluating"),
        ],
        pictures=compared,
        plots=[folder.loss_plot, folder.ap_plot],
        evaluation=evaluation,
        evaluation_note=(
            f"By {evaluation.evaluator} on {held_out} held-out images of {run.val_split.annotations.name}, "
            f"after epoch {last['epoch']}."
        ),
        analysis=analyse(run.val_split, run.detected.results, run.detected.image_ids),
        timings=(),
        environment=run.environment or describe(),
        recipe=recipe.to_toml(),
    )


def minutes(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _summary(run: Run, source: str) -> str:
    recipe: Recipe = run.recipe
    train = run.train_split
    begun = f"starting from {recipe.init}" if recipe.init else "without pretrained weights"
    return (
        f"A {recipe.arch} feature-pyramid RetinaNet with the fused ops of retinanet_fast, trained on {source}: "
        f"{len(train.images)} images, {train.count_boxes()} boxes, {_names(train.categories)}; {begun}."
    )


def _names(categories: list[Category]) -> str:
    names = [category.name for category in categories]
    return ", ".join(names) if len(names) <= 5 else f"{len(names)} categories"
