"""Recipes: files, defaults, flags."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from retinanet_fast.cli.arguments import make_parser
from retinanet_fast.cli.recipe_flags import recipe_of
from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.recipe.schedule import describe_schedule, learning_rate
from retinanet_fast.engine.recipe.toml import describe
from retinanet_fast.nn.transform import IMAGENET_MEAN, IMAGENET_STD


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
        ("lr = inf", "mine.toml: lr: expected a finite number, got inf"),
        ("image_std = [1, 0, 1]", "mine.toml: image_std: expected numbers above 0, got [1.0, 0.0, 1.0]"),
        (
            "image_mean = [0.5]",
            "mine.toml: image_mean: expected 3 numbers, of red, green and blue, got [0.5]",
        ),
        ('nonfinite = "go on"', "mine.toml: nonfinite: expected stop or skip, got 'go on'"),
        ('precision = "fp16"', "precision: expected auto, float32, bfloat16 or float16, got 'fp16'"),
        ('box_loss = "l2"', "box_loss: expected auto, l1, smooth_l1 or giou, got 'l2'"),
        ("lr_batch_size = -1", "lr_batch_size: expected a number of at least 0, got -1"),
        ("ema_decay = 1", "ema_decay: expected a number from 0 to below 1, got 1.0"),
        ("alpha = 1.5", "alpha: expected a number from 0 to 1, or -1 for none, got 1.5"),
        ("bg_iou_thresh = 0.6", "bg_iou_thresh: expected at most fg_iou_thresh, 0.5, got 0.6"),
        (
            "scale_jitter = [2, 1]",
            "scale_jitter: expected none, or the lowest and the highest factor, got [2.0,",
        ),
        (
            "scale_jitter = [2]",
            "scale_jitter: expected none, or the lowest and the highest factor, got [2.0]",
        ),
        ("accumulate = 17", "accumulate: expected at most batch_size, 16, got 17"),
        (
            "trainable_layers = 2",
            "trainable_layers: expected -1 or 5 without init, since frozen layers would",
        ),
        ('norm = "frozen_batch"', "norm: frozen_batch needs weights to freeze, a file in init"),
        (
            'arch = "timm/resnet18"\nnorm = "group"',
            "norm: group goes with ResNets of this package, not with arch",
        ),
        (
            'arch = "timm/resnet18"\ninit = "x.pth"\ntrainable_layers = 3',
            "trainable_layers: expected -1 or 5 with arch timm/resnet18, all of which is trained, got 3",
        ),
        (
            'head_norm = "group"\nfpn_channels = 20',
            "fpn_channels: expected a multiple of 8 with group norm, got 20",
        ),
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


def test_every_value_is_described_in_a_section_with_choices_that_are_allowed() -> None:
    for field in dataclasses.fields(Recipe):
        assert field.metadata["section"]
        assert describe(field)
        for choice in field.metadata["choices"]:
            assert getattr(Recipe(init="x.pth").replace(**{field.name: choice}), field.name) == choice


def test_the_default_mean_and_deviation_are_the_models() -> None:
    assert (Recipe().image_mean, Recipe().image_std) == (list(IMAGENET_MEAN), list(IMAGENET_STD))


def test_values_of_an_older_checkpoint_become_todays() -> None:
    def read(**values: Any) -> tuple[str, str, int]:
        recipe = recipes.from_dict(values, "old.pt")
        return recipe.precision, recipe.head_norm, recipe.trainable_layers

    assert read(amp=True, head_norm=False, trainable_layers=3) == ("auto", "auto", -1)
    assert read(amp=False, head_norm=True, trainable_layers=2, init="x.pth") == ("float32", "group", 2)
    assert read(arch="timm/resnet18", init="x.pth", amp=True, trainable_layers=3)[2] == -1


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


def test_help_has_sections_defaults_and_choices() -> None:
    text = " ".join(_train_help().split())
    sections = [f"recipe: {f.metadata['section']}:" for f in dataclasses.fields(Recipe)]
    places = [text.index(section) for section in dict.fromkeys(sections)]
    assert places == sorted(places)
    assert len(places) > 5
    assert places[1] < text.index("--box-loss auto|l1|smooth_l1|giou") < places[2]
    for expected in (
        "subtracted from red, green and blue in 0 to 1 (default: 0.485 0.456 0.406)",
        "(default: 0.229 0.224 0.225)",
        "none: off (default: none)",
        "keep activations channels_last (default: on)",
        "weight decay (default: 0.0001)",
    ):
        assert expected in text, expected


def test_a_word_that_is_no_choice_is_told_in_one_line() -> None:
    with pytest.raises(InputError, match=r"^command line: nonfinite: expected stop or skip, got 'go'$"):
        overridden("--nonfinite", "go")


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


@pytest.mark.parametrize(
    ("batch_size", "lr_batch_size", "rate"), [(4, 0, 0.1), (4, 16, 0.025), (32, 16, 0.2)]
)
def test_the_rate_is_scaled_only_where_the_recipe_says_so(
    batch_size: int, lr_batch_size: int, rate: float
) -> None:
    recipe = Recipe(lr=0.1, batch_size=batch_size, lr_batch_size=lr_batch_size, warmup_iters=2)
    assert learning_rate(recipe, 5, steps_per_epoch=10) == pytest.approx(rate)
    assert learning_rate(recipe, 0, steps_per_epoch=10) == pytest.approx(rate / 2)


def test_the_schedule_in_words_is_that_of_the_rate() -> None:
    recipe = Recipe(lr=0.4, batch_size=8, lr_batch_size=16, warmup_iters=5, epochs=12, steps=[11, 8, 20])
    assert describe_schedule(recipe, 10) == [
        "12 epochs of 10 steps of 8 images: 120 steps",
        "learning rate 0.2 (0.4 for 16 images a step) after a warm-up of 5 steps (epoch 0.5)",
        "falls to 0.02 at step 80 (epoch 8)",
        "falls to 0.002 at step 110 (epoch 11)",
    ]
    assert [learning_rate(recipe, step, 10) for step in (4, 79, 80, 110)] == pytest.approx(
        [0.2, 0.2, 0.02, 0.002]
    )
    assert describe_schedule(recipe.replace(schedule="cosine", warmup_iters=200), 10)[1:] == [
        "learning rate 0.2 (0.4 for 16 images a step), which the warm-up of 200 steps does not reach",
        "falls by a cosine to 0 at step 120",
    ]


def test_learning_rate_follows_a_cosine() -> None:
    recipe = Recipe(lr=2.0, warmup_iters=0, epochs=2, schedule="cosine")
    rates = [learning_rate(recipe, iteration, steps_per_epoch=10) for iteration in (0, 5, 10, 15)]
    # lr / 2 * (1 + cos(pi * x)) at x = 0, 1/4, 1/2, 3/4
    assert rates == pytest.approx([2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5])
