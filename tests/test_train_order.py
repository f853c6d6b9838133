"""The order of a run's images: a function of seed and step, cut into shares without loss."""

from __future__ import annotations

import numpy as np
import pytest

from retinanet_fast.engine.data.order import Draw, TrainOrder, resized_sizes, shares
from retinanet_fast.engine.data.split import Images
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.nn.batch_sizes import resized_size


def images(wide: int, tall: int) -> Images:
    sizes = [(32, 24)] * wide + [(24, 32)] * tall
    return Images.of((i + 1, f"{i}.png", *size) for i, size in enumerate(sizes))


def epoch(order: TrainOrder, number: int) -> list[list[Draw]]:
    first = number * order.steps_per_epoch
    return [order.batch(step) for step in range(first, first + order.steps_per_epoch)]


def indices(batches: list[list[Draw]]) -> list[int]:
    return [draw.index for batch in batches for draw in batch]


@pytest.mark.parametrize(("wide", "tall"), [(13, 0), (9, 5), (1, 1), (8, 8)])
@pytest.mark.parametrize("aspect_groups", [1, 2, 16])
def test_each_epoch_takes_every_image_once(wide: int, tall: int, aspect_groups: int) -> None:
    order = TrainOrder(images(wide, tall), Recipe(batch_size=4, aspect_groups=aspect_groups))
    assert order.steps_per_epoch == -(-(wide + tall) // 4)
    for number in range(3):
        batches = epoch(order, number)
        assert sorted(indices(batches)) == list(range(wide + tall))
        assert {draw.epoch for batch in batches for draw in batch} == {number}
        assert max(len(batch) for batch in batches) <= 4


def test_images_of_like_shape_are_batched() -> None:
    order = TrainOrder(images(21, 43), Recipe(batch_size=4, aspect_groups=16))
    mixed = [batch for batch in epoch(order, 0) if len({draw.index < 21 for draw in batch}) > 1]
    assert len(mixed) == 1  # the one in which the 21 wide ones end
    unsorted = TrainOrder(images(21, 43), Recipe(batch_size=4, aspect_groups=1))
    assert sum(len({draw.index < 21 for draw in batch}) > 1 for batch in epoch(unsorted, 0)) > 8


def test_the_padding_is_that_of_the_batches() -> None:
    recipe = Recipe(batch_size=2, min_size=[24], max_size=32, size_divisible=1, aspect_groups=16)
    # One batch of both shapes: 32x32 for two images of 32x24 pixels. Alone, or sorted, nothing is padded.
    assert TrainOrder(images(1, 1), recipe).padding() == pytest.approx(0.25)
    assert TrainOrder(images(2, 2), recipe).padding() == 0
    assert TrainOrder(images(2, 0), recipe.replace(size_divisible=64)).padding() == pytest.approx(
        1 - 32 * 24 / 64**2
    )


def test_sizes_are_those_that_the_model_resizes_to() -> None:
    sizes = np.array([(640, 480), (427, 640), (1000, 30), (3, 7), (800, 800), (1333, 799)], dtype=np.int32)
    recipe = Recipe(min_size=[400, 500], max_size=777)
    found = resized_sizes(sizes, recipe).tolist()
    assert found == [list(resized_size(h, w, 500, 777)[::-1]) for w, h in sizes.tolist()]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    entries, recipe = images(9, 6), Recipe(batch_size=4)
    order = TrainOrder(entries, recipe)
    first, second = epoch(order, 0), epoch(order, 1)
    assert indices(first) != indices(second)
    assert epoch(order, 0) == first  # after another epoch has been asked for
    assert TrainOrder(entries, recipe).batch(order.steps_per_epoch + 2) == second[2]  # by itself
    assert epoch(TrainOrder(entries, recipe.replace(seed=1)), 0) != first


def test_an_epoch_can_be_cut_short() -> None:
    order = TrainOrder(images(20, 0), Recipe(batch_size=4, epoch_steps=2))
    assert order.steps_per_epoch == 2
    assert len(set(indices(epoch(order, 0)))) == 8
    assert order.batch(2)[0].epoch == 1
    assert TrainOrder(images(20, 0), Recipe(batch_size=4, epoch_steps=50)).steps_per_epoch == 5


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
@pytest.mark.parametrize("length", [1, 2, 4, 5, 6, 7])
def test_shares_partition_a_batch_in_order(length: int, parts: int) -> None:
    batch = list(range(length))
    found = shares(batch, parts)
    assert [item for share in found for item in share] == batch
    lengths = [len(share) for share in found]
    assert len(lengths) == parts
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)
