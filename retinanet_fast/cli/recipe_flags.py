"""A flag for each value of a recipe, by section, and the recipe that the flags give."""

from __future__ import annotations

import argparse
import dataclasses
import re
from itertools import groupby
from typing import Any, get_type_hints

from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe import Recipe

LISTS = (list[int], list[float])
ABOUT = "Each flag changes one value of the recipe. Shown are the defaults of a recipe that does not name the value."


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """A group of flags for each section. A flag that is not given leaves no trace in the options."""
    parser.add_argument_group("recipe", ABOUT)
    for section, fields in groupby(dataclasses.fields(Recipe), key=lambda field: field.metadata["section"]):
        group = parser.add_argument_group(f"recipe: {section}")
        for field in fields:
            _add_flag(group, field)
        if section == "images":
            group.add_argument(
                "--image-size",
                nargs="+",
                metavar="N",
                help="shorter and longer side, as 240 320, 320x240, or one number for both: sets min_size and max_size",
            )


def choices_of(name: str) -> tuple[str, ...]:
    """The words that a value may be."""
    found: tuple[str, ...] = next(f for f in dataclasses.fields(Recipe) if f.name == name).metadata["choices"]
    return found


def _add_flag(group: Any, field: dataclasses.Field[Any]) -> None:
    kind, doc, choices = get_type_hints(Recipe)[field.name], field.metadata["doc"], field.metadata["choices"]
    options: dict[str, Any] = {
        "default": argparse.SUPPRESS,
        "help": f"{doc} (default: {_default(field)})".lstrip(),
    }
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif kind in LISTS:
        options.update(nargs="*", metavar="N")
    else:
        options.update(type=kind, metavar="|".join(choices) or ("WORD" if kind is str else "N"))
    group.add_argument(_flag(field.name), **options)


def _default(field: dataclasses.Field[Any]) -> str:
    value = getattr(Recipe(), field.name)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return " ".join(f"{item:g}" for item in value) or "none"
    return (f"{value:.3g}" if isinstance(value, float) else str(value)) or "none"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe values that the command line gives."""
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(Recipe) if hasattr(options, f.name)}
    for name, kind in get_type_hints(Recipe).items():
        if name in given and kind in LISTS:
            given[name] = _numbers(_flag(name), given[name], kind.__args__[0])
    if options.image_size:
        sides = _numbers("--image-size", options.image_size, int)
        if len(sides) > 2:
            raise InputError(f"--image-size: expected one or two numbers, got {len(sides)}")
        given["min_size"], given["max_size"] = [min(sides)], max(sides)
    return given


def _numbers(flag: str, words: list[str], kind: type) -> list[Any]:
    """Numbers from words such as ``8 11``, ``8,11`` or ``320x240``."""
    parts = [part for word in words for part in re.split(r"[\s,x/]+", word) if part]
    try:
        return [kind(part) for part in parts]
    except ValueError:
        raise InputError(f"{flag}: expected numbers, got {' '.join(words)!r}") from None


def recipe_of(name: str | None, options: argparse.Namespace) -> Recipe:
    """The named recipe, or the defaults, with the command line's values."""
    base = recipes.load(name) if name is not None else Recipe()
    return recipes.from_dict({**base.to_dict(), **overrides(options)}, "command line")
