"""The order of a run's images: a function of seed and step, cut into shares without loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinanet_fast.engine.data.order import Draw, TrainOrder, shares
from retinanet_fast.engine.data.split import ImageEntry
from retinanet_fast.engine.recipe import Recipe


def images(wide: int, tall: int) -> list[ImageEntry]:
    sizes = [(32, 24)] * wide + [(24, 32)] * tall
    return [ImageEntry(i + 1, f"{i}.png", Path(f"{i}.png"), *size) for i, size in enumerate(sizes)]


def epoch(order: TrainOrder, number: int) -> list[list[Draw]]:
    first = number * order.steps_per_epoch
    return [order.batch(step) for step in range(first, first + order.steps_per_epoch)]


def indices(batches: list[list[Draw]]) -> list[int]:
    return [draw.index for batch in batches for draw in batch]


@pytest.mark.parametrize(("wide", "tall"), [(13, 0), (9, 5), (1, 1), (8, 8)])
@pytest.mark.parametrize("group_aspect", [True, False])
def test_each_epoch_takes_every_image_once(wide: int, tall: int, group_aspect: bool) -> None:
    order = TrainOrder(images(wide, tall), Recipe(batch_size=4, group_aspect=group_aspect))
    for number in range(3):
        batches = epoch(order, number)
        assert sorted(indices(batches)) == list(range(wide + tall))
        assert {draw.epoch for batch in batches for draw in batch} == {number}
        assert max(len(batch) for batch in batches) <= 4
        if group_aspect:
            assert all(len({draw.index < wide for draw in batch}) == 1 for batch in batches)


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
