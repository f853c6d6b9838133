"""Reads recipes: those of the package, TOML files, and the plain values that checkpoints keep."""

from __future__ import annotations

import dataclasses
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe.values import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = "named"


def from_dict(values: dict[str, Any], source: str) -> Recipe:
    """A recipe from plain values; ``source`` is named in errors.

    Raises:
        InputError: an unknown key, or a value that is not allowed.
    """
    values = _of_today(values)
    known = {f.name for f in dataclasses.fields(Recipe)}
    for key in values:
        if key not in known:
            raise InputError(f"{source}: unknown value {key!r}; known are {', '.join(sorted(known))}")
    try:
        return Recipe(**values)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None


def _of_today(values: dict[str, Any]) -> dict[str, Any]:
    """The values of an older file or checkpoint as today's.

    ``head_norm`` was false or true, and so was ``group_aspect``, which told landscape from portrait alone. ``amp``,
    which every older checkpoint has, was ``precision`` float32 or auto, and 3 was the default of ``trainable_layers``,
    without ``init`` too.
    """
    values = dict(values)
    if isinstance(values.get("head_norm"), bool):
        values["head_norm"] = "group" if values["head_norm"] else "auto"
    if isinstance(group := values.pop("group_aspect", None), bool) and not group:
        values.setdefault("aspect_groups", 1)
    if isinstance(values.get("amp"), bool) and "precision" not in values:
        values["precision"] = "auto" if values.pop("amp") else "float32"
        if values.get("trainable_layers") == 3:
            values["trainable_layers"] = -1
    return values


def names() -> list[str]:
    """Names of the recipes inside the package."""
    folder = resources.files(__package__) / FOLDER
    return sorted(item.name[: -len(".toml")] for item in folder.iterdir() if item.name.endswith(".toml"))


def load(name_or_file: str) -> Recipe:
    """A recipe of the package by its name, or one from a TOML file.

    Raises:
        InputError: no such recipe, not TOML, an unknown key or a value of the wrong type.
    """
    path = Path(name_or_file)
    if name_or_file in names():
        source = f"recipe {name_or_file}"
        text = (resources.files(__package__) / FOLDER / f"{name_or_file}.toml").read_text()
    elif path.is_file():
        source = str(path)
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
    else:
        raise InputError(f"{name_or_file}: no such recipe file, nor one of {', '.join(names())}")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source}: not TOML: {error}") from None
    return from_dict(values, source)
