"""Writes a recipe as TOML; the standard library only reads it."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinanet_fast.engine.recipe.values import Recipe


def to_toml(recipe: Recipe) -> str:
    """The recipe as a file, by sections, every value written out with its description."""
    fields = dataclasses.fields(recipe)
    width = max(len(field.name) for field in fields)
    sections = []
    for section, members in groupby(fields, key=lambda field: field.metadata["section"]):
        lines = [f"# {section.capitalize()}"]
        for field in members:
            setting = f"{field.name:<{width}} = {_toml(getattr(recipe, field.name))}"
            lines.append(f"{setting:<48}  # {describe(field)}")
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def describe(field: dataclasses.Field[Any]) -> str:
    """A value's description in one line, with the words that are allowed."""
    doc, choices = field.metadata["doc"], field.metadata["choices"]
    return f"{doc} ({', '.join(choices)})" if choices else doc


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
