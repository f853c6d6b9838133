"""Recipes: everything that determines a training run, in one small TOML file.

``values`` has the values, ``checks`` what they may be, ``files`` reads them, ``toml`` writes them, and ``schedule`` is
the learning rate that they describe. The recipes of the package are in ``named/``.
"""

from retinanet_fast.engine.recipe.files import from_dict, load, names
from retinanet_fast.engine.recipe.values import V2, Recipe

__all__ = ["V2", "Recipe", "from_dict", "load", "names"]
