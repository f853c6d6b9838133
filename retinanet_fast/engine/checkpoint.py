"""Checkpoints: the weights with all that is needed to use them or to go on training."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import recipe as recipes
from .coco import Category, one_line
from .errors import InputError
from .files import write_atomically
from .recipe import Recipe

FORMAT = "retinanet_fast checkpoint 1"
LAST = "last.pt"
BEST = "best.pt"


@dataclass
class Checkpoint:
    """What a run leaves after each epoch.

    Attributes:
        optimizer: the optimizer's state, empty in a checkpoint that is only to be used.
        history: one record an epoch, as in ``metrics.jsonl``.
    """

    model: dict[str, Tensor]
    recipe: Recipe
    categories: list[Category]
    epoch: int
    optimizer: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

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
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this program: expected format {FORMAT!r}")
    try:
        return Checkpoint(
            model=content["model"],
            recipe=recipes.from_dict(content["recipe"], str(path)),
            categories=[Category(entry["id"], entry["name"]) for entry in content["categories"]],
            epoch=content["epoch"],
            optimizer=content["optimizer"],
            history=content["history"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: a damaged checkpoint: {one_line(error)}") from None


def load_tensors(path: Path) -> Any:
    """``torch.load`` on the CPU with ``weights_only=True``.

    Raises:
        InputError: missing, damaged, or holding more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path}: not a checkpoint: expected a file of tensors and plain values") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a checkpoint, or a damaged one: {one_line(error)}") from None


def load_model(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Give a model its weights.

    Raises:
        InputError: they are those of another model.
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        example = f"lacks {missing[0]}" if missing else f"has {unknown[0]}"
        raise InputError(f"{source}: a checkpoint of another model: it {example}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{name} is {list(tensor.shape)}, expected {list(expected[name].shape)}"
            raise InputError(f"{source}: a checkpoint of another model: {shapes}")
    model.load_state_dict(state)


def start_from(model: nn.Module, path: Path) -> int:
    """Start training from a file: the tensors whose name and shape fit are taken, the rest stays fresh.

    Takes a checkpoint of this program, a detector's state dict with torchvision's names, or a classifier's, whose
    names lack the detector's ``backbone.body.``.

    Returns:
        How many tensors were taken.

    Raises:
        InputError: nothing in the file fits.
    """
    content = load_tensors(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        content = content["model"]
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a state dict, got a {type(content).__name__}")
    expected = model.state_dict()
    renamed = {
        name if name in expected else f"backbone.body.{name}": tensor for name, tensor in content.items()
    }
    fitting = {
        name: tensor
        for name, tensor in renamed.items()
        if name in expected and isinstance(tensor, Tensor) and tensor.shape == expected[name].shape
    }
    if not fitting:
        raise InputError(f"{path}: weights of another model: no tensor fits")
    model.load_state_dict(fitting, strict=False)
    return len(fitting)
