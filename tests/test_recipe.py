"""Recipes: files, defaults, flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinanet_fast.cli.arguments import make_parser, recipe_of
from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.recipe.schedule import learning_rate


@pytest.mark.parametrize("name", recipes.names())
def test_the_packages_recipes_load(name: str) -> None:
    assert isinstance(recipes.load(name), Recipe)


def test_the_documented_recipes_are_there() -> None:
    assert {"bccd", "coco", "demo", "quick", "r101", "x101_32x8d"} <= set(recipes.names())
    bccd = recipes.load("bccd")
    assert (bccd.arch, bccd.min_size, bccd.max_size) == ("resnet18", [240], 320)


def test_a_recipe_written_out_is_read_back(tmp_path: Path) -> None:
    recipe = Recipe(
        arch="resnet34", min_size=[640, 800], lr=2e-4, steps=[], precision="float32", init='a "b"\\c'
    )
    path = tmp_path / "mine.toml"
    path.write_text(recipe.to_toml())
    assert recipes.load(str(path)) == recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr = ", "mine.toml: not TOML"),
        ("learning_rate = 0.1", "mine.toml: unknown value 'learning_rate'; known are"),
        ('epochs = "ten"', "mine.toml: epochs: expected int, got 'ten'"),
        ("epochs = true", "mine.toml: epochs: expected int, got True"),
        ("epochs = 0", "mine.toml: epochs: expected a number above 0, got 0"),
        ("hflip = 1.5", "mine.toml: hflip: expected a number from 0 to 1, got 1.5"),
        ('optimizer = "adam"', "mine.toml: optimizer: expected sgd or adamw, got 'adam'"),
        ("anchor_sizes = [32, 64]", "mine.toml: anchor_sizes: expected 5 numbers"),
        ("min_size = []", "mine.toml: min_size: expected at least one number"),
    ],
)
def test_a_bad_recipe_is_named_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        recipes.load(str(path))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(InputError, match="coc: no such recipe file, nor one of bccd, coco"):
        recipes.load("coc")


def overridden(*words: str) -> Recipe:
    options = make_parser().parse_args(["train", "--out", "x", "--recipe", "coco", *words])
    return recipe_of(options.recipe, options)


def test_every_value_has_a_flag() -> None:
    found = overridden(
        *("--arch", "resnet18", "--epochs", "3", "--lr", "1e-3", "--precision", "bfloat16", "--keep-empty"),
        *("--steps", "1,2", "--anchor-sizes", "16", "32", "64", "128", "256", "--min-size", "200", "240"),
    )
    assert (found.arch, found.epochs, found.lr, found.precision, found.keep_empty) == (
        "resnet18",
        3,
        1e-3,
        "bfloat16",
        True,
    )
    assert (found.steps, found.anchor_sizes) == ([1.0, 2.0], [16, 32, 64, 128, 256])
    assert (found.min_size, found.max_size) == ([200, 240], recipes.load("coco").max_size)
    for name in Recipe().to_dict():
        assert f"--{name.replace('_', '-')}" in _train_help()


def _train_help() -> str:
    parser = make_parser()
    return next(a for a in parser._actions if a.choices).choices["train"].format_help()  # type: ignore[union-attr, call-overload, index, no-any-return]


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        (["320x240"], ([240], 320)),
        (["240", "320"], ([240], 320)),
        (["800/1333"], ([800], 1333)),
        (["256"], ([256], 256)),
    ],
)
def test_image_size_sets_both_sides(words: list[str], sizes: tuple[list[int], int]) -> None:
    found = overridden("--image-size", *words)
    assert (found.min_size, found.max_size) == sizes


def test_a_bad_image_size() -> None:
    with pytest.raises(InputError, match="--image-size: expected numbers, got 'large'"):
        overridden("--image-size", "large")


def test_learning_rate_warms_up_and_steps_down() -> None:
    recipe = Recipe(lr=0.4, warmup_iters=4, epochs=12, steps=[8, 11], step_gamma=0.1)
    rates = [
        learning_rate(recipe, iteration, steps_per_epoch=10) for iteration in (0, 1, 3, 79, 80, 109, 110, 119)
    ]
    assert rates == pytest.approx([0.1, 0.2, 0.4, 0.4, 0.04, 0.04, 0.004, 0.004])


def test_learning_rate_follows_a_cosine() -> None:
    recipe = Recipe(lr=2.0, warmup_iters=0, epochs=2, schedule="cosine")
    rates = [learning_rate(recipe, iteration, steps_per_epoch=10) for iteration in (0, 5, 10, 15)]
    # lr / 2 * (1 + cos(pi * x)) at x = 0, 1/4, 1/2, 3/4
    assert rates == pytest.approx([2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5])
