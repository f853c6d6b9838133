"""Checkpoints: the weights with all that is needed to use them or to go on training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.errors import InputError, one_line
from retinanet_fast.engine.files import write_atomically
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.models.weights import BODY, Settings, Weights, load_weights, read_tensors, settings_in

FORMAT = "retinanet_fast checkpoint 2"
# Formats that are read: 1 has no step within an epoch, and nothing that a file without it would be wrong about.
READABLE = (FORMAT, "retinanet_fast checkpoint 1")
LAST = "last.pt"
BEST = "best.pt"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps done since the run began.
        epoch_losses: the losses of the steps since the last record of an epoch, in the order of ``loss_names``.
        epoch_seconds: what those steps took, in the processes that have ended.
        skipped: steps since then that changed nothing, since their loss was not finite.
        skipped_in_row: how many of the last steps those were, without one between that was finite.
        unscored: the record of the last epoch, where COCO's numbers of it are still to come.
    """

    step: int = 0
    loss_names: list[str] = field(default_factory=list)
    epoch_losses: list[list[float]] = field(default_factory=list)
    epoch_seconds: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0
    unscored: dict[str, Any] | None = None


@dataclass
class Checkpoint:
    """What a run leaves at the end of an epoch, or at a step within one.

    Attributes:
        epoch: epochs that were finished, the unscored one among them.
        optimizer: the optimizer's state, empty in a checkpoint that is only to be used.
        history: one record per epoch, as in ``metrics.jsonl``.
        settings: of the model, which its state dict does not hold.
        ema: the averaged weights, empty where the recipe asks for none.
        scaler: the state of float16's gradient scaler.
        progress: None in a file of format 1.
        steps_per_epoch: of the run; 0 in a file of format 1.
        problems: what was left out of the data set so far.
        record: what ``run.json`` says, with which the run can be resumed; see ``RunRecord``.
    """

    model: dict[str, Tensor]
    recipe: Recipe
    categories: list[Category]
    epoch: int
    optimizer: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)
    ema: dict[str, Tensor] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    progress: Progress | None = None
    steps_per_epoch: int = 0
    problems: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to detect with: the averaged ones where there are such."""
        return self.ema or self.model

    def save(self, path: Path) -> None:
        """Write the checkpoint whole or not at all; it holds only tensors and plain values."""
        content = {
            "format": FORMAT,
            "model": self.model,
            "recipe": self.recipe.to_dict(),
            "categories": [{"id": category.id, "name": category.name} for category in self.categories],
            "epoch": self.epoch,
            "optimizer": self.optimizer,
            "history": self.history,
            "settings": self.settings.to_dict(),
            "ema": self.ema,
            "scaler": self.scaler,
            "progress": dataclasses.asdict(self.progress) if self.progress is not None else None,
            "steps_per_epoch": self.steps_per_epoch,
            "problems": self.problems,
            "record": self.record,
        }
        write_atomically(path, lambda file: torch.save(content, file))


def find(run_or_file: Path) -> Path:
    """The checkpoint file: the path itself, or the last one of a run's folder.

    Raises:
        InputError: there is none.
    """
    path = run_or_file / LAST if run_or_file.is_dir() else run_or_file
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    return path


def load(run_or_file: Path) -> Checkpoint:
    """Read a checkpoint, with ``weights_only=True``: it cannot run code.

    Raises:
        InputError: missing, damaged, or not a checkpoint of this program.
    """
    path = find(run_or_file)
    content = load_tensors(path)
    if not isinstance(content, dict) or content.get("format") not in READABLE:
        raise InputError(f"{path}: not a checkpoint of this program: expected format {FORMAT!r}")
    progress = content.get("progress")
    try:
        return Checkpoint(
            model=content["model"],
            recipe=recipes.from_dict(content["recipe"], str(path)),
            categories=[Category(entry["id"], entry["name"]) for entry in content["categories"]],
            epoch=content["epoch"],
            optimizer=content["optimizer"],
            history=content["history"],
            settings=settings_in(content),
            ema=content.get("ema", {}),
            scaler=content.get("scaler", {}),
            progress=Progress(**progress) if progress is not None else None,
            steps_per_epoch=content.get("steps_per_epoch", 0),
            problems=content.get("problems", []),
            record=content.get("record", {}),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: a damaged checkpoint: {one_line(error)}") from None


def load_tensors(path: Path) -> Any:
    """The content of a file of tensors and plain values.

    Raises:
        InputError: missing, damaged, or holding more than that.
    """
    try:
        return read_tensors(path)
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from None


def restore(model: nn.Module, state: Checkpoint, source: Path, averaged: bool = True) -> None:
    """Give a model the weights of a checkpoint, all of them: those to detect with.

    Args:
        averaged: False takes the weights that training goes on from.

    Raises:
        InputError: they are those of another model.
    """
    try:
        weights = state.weights if averaged else state.model
        load_weights(model, Weights(weights, str(source), state.settings))
    except ValueError as error:
        raise InputError(str(error)) from None


def start_from(model: nn.Module, path: str) -> str:
    """Start training from a file of weights: what fits is taken, the rest stays fresh; see ``load_weights``.

    Returns:
        One line that says how many tensors were taken, which are missing and which were not used.

    Raises:
        InputError: nothing in the file fits, or the ResNet is not filled. Its first layers and its batch norm are
            frozen, so that they would stay as they were drawn. Or the file's backbone has batch norm where the model's
            has group norm.
    """
    try:
        report = load_weights(model, path, strict=False)
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from None
    if not report.loaded:
        raise InputError(f"{path}: weights of another model: no tensor fits")
    body = [name for name in model.state_dict() if name.startswith(BODY) and not name.endswith("_tracked")]
    if absent := [name for name in body if name not in report.loaded]:
        raise InputError(f"{path}: weights of another backbone: {absent[0]} is not taken from it ({report})")
    grouped = any(name.startswith(BODY) for name, m in model.named_modules() if isinstance(m, nn.GroupNorm))
    if grouped and any(name.endswith("running_mean") for name in report.unused):
        raise InputError(f"{path}: weights of a backbone with batch norm, but the recipe's norm is group")
    return str(report)
