"""A run's batches: the same from any step on, for any number of workers and processes, and with images that are bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import data_sets
import pytest
import torch
from torch import Tensor

from retinanet_fast.engine.data import loader
from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.data.dataset import BadImage, CocoDataset, Sample, to_model
from retinanet_fast.engine.data.image_cache import ImageCache
from retinanet_fast.engine.data.loader import train_batches
from retinanet_fast.engine.data.order import TrainOrder
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.nn import DetectionTransform

CPU = torch.device("cpu")
# Everything that is drawn: flips, one of two sizes, scale jitter.
RECIPE = Recipe(batch_size=4, workers=0, min_size=[40, 48], max_size=80, scale_jitter=[0.5, 2.0], vflip=0.5)


def steps(
    folder: Path, recipe: Recipe = RECIPE, first: int = 0, last: int | None = None, **process: int
) -> list[list[Batch]]:
    """The batches of steps ``first`` to ``last``, by default those of two epochs."""
    location = locate(folder, "train")
    assert location is not None
    split = read_split(location, Problems(skip=False))
    return steps_of(CocoDataset(split, split.categories, recipe), recipe, first, last, **process)


def steps_of(
    dataset: CocoDataset, recipe: Recipe, first: int = 0, last: int | None = None, **process: int
) -> list[list[Batch]]:
    order = TrainOrder(dataset.images, recipe)
    last = 2 * order.steps_per_epoch if last is None else last
    return list(train_batches(dataset, order, recipe, CPU, first_step=first, last_step=last, **process))


def values(batch: Batch) -> list[Any]:
    return [batch.image_ids, batch.sizes, batch.weight, batch.messages]


def tensors(batch: Batch) -> list[Tensor]:
    return [*batch.images, *batch.targets.values()]


def assert_same(found: list[list[Batch]], expected: list[list[Batch]]) -> None:
    assert len(found) == len(expected)
    for parts, others in zip(found, expected):
        assert [values(batch) for batch in parts] == [values(batch) for batch in others]
        for batch, other in zip(parts, others):
            assert all(torch.equal(a, b) for a, b in zip(tensors(batch), tensors(other), strict=True))


def test_batches_are_the_same_for_any_number_of_workers_and_from_any_step_on(tmp_path: Path) -> None:
    data_sets.with_squares(tmp_path, 10)
    whole = steps(tmp_path)
    assert len(whole) == 6  # 4, 4 and 2 images, twice
    torch.manual_seed(5)  # torch's generator has no part in it, and is left as it was
    before = torch.get_rng_state()
    assert_same(steps(tmp_path, RECIPE.replace(workers=2)), whole)
    assert torch.equal(torch.get_rng_state(), before)
    for first in (1, 3, 5):
        assert_same(steps(tmp_path, first=first), whole[first:])
    assert_same(steps(tmp_path, first=2, last=4), whole[2:4])
    # What is drawn differs between epochs.
    shapes = [{i: image.shape for b in parts for i, image in zip(b.image_ids, b.images)} for parts in whole]
    assert shapes[0] | shapes[1] | shapes[2] != shapes[3] | shapes[4] | shapes[5]


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (3, 1), (1, 2), (2, 3)])
def test_processes_and_parts_share_a_steps_images(tmp_path: Path, world_size: int, accumulate: int) -> None:
    """In order, with weights that sum to 1; and where there are too few images the first stands in, with weight 0."""
    data_sets.with_squares(tmp_path, 9)  # the last batch of an epoch has one image
    whole = steps(tmp_path)
    recipe = RECIPE.replace(accumulate=accumulate)
    ranks = [steps(tmp_path, recipe, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, (batch,) in enumerate(whole):
        parts = [part for rank in ranks for part in rank[step]]
        assert len(parts) == world_size * accumulate
        present = [part for part in parts if part.weight > 0]
        assert [i for part in present for i in part.image_ids] == batch.image_ids
        assert [part.weight for part in present] == [len(part.images) / len(batch.images) for part in present]
        images = [image for part in present for image in part.images]
        assert all(torch.equal(a, b) for a, b in zip(images, batch.images, strict=True))
        for part in parts:
            if part.weight == 0:
                assert part.image_ids == batch.image_ids[:1]


def test_a_batch_is_what_the_model_takes(tmp_path: Path) -> None:
    data_sets.with_squares(tmp_path, 6)
    for (batch,) in steps(tmp_path, RECIPE.replace(size_divisible=16)):
        count = len(batch.images)
        assert all(image.dtype == torch.uint8 for image in batch.images)
        assert batch.targets["boxes"].shape == (count, int(batch.targets["counts"].max().clamp(min=1)), 4)
        transform = DetectionTransform(40, 80, (0.5,) * 3, (0.2,) * 3)
        batched, _ = transform(to_model(batch.images, CPU), batch.targets, batch.sizes)
        assert [tuple(size) for size in batched.image_sizes] == list(batch.sizes.resized)
        assert batched.tensors.shape == (count, 3, *batch.sizes.padded)
        assert all(side % 16 == 0 for side in batch.sizes.padded)


def test_the_padded_size_does_not_depend_on_the_jitter(tmp_path: Path) -> None:
    """So that a run with one size has one shape of batch: 40x53 pixels, padded."""
    data_sets.with_squares(tmp_path, 8)
    recipe = RECIPE.replace(min_size=[40])
    found = steps(tmp_path, recipe)
    assert {batch.sizes.padded for (batch,) in found} == {(64, 64)}
    resized = {size for (batch,) in found for size in batch.sizes.resized}
    assert (40, 53) in resized  # enlarged, and cropped to the size
    assert any(height < 40 for height, _ in resized)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_replaced_by_the_next_of_the_data_set(tmp_path: Path, workers: int) -> None:
    pictures = data_sets.with_squares(tmp_path, 9)
    recipe = RECIPE.replace(scale_jitter=[], workers=workers)
    good = steps(tmp_path, recipe)
    for index in (4, 8):  # ids 5 and 9: replaced by 6 and, round the end, by 1
        data_sets.truncate(pictures / f"{index}.png")
    for rank in (0, 1):
        bad = steps(tmp_path, recipe, rank=rank, world_size=2)
        before = steps_ids(good, rank)
        assert steps_ids(bad, None) == [[{5: 6, 9: 1}.get(i, i) for i in ids] for ids in before]
        for (batch,), ids in zip(bad, before):
            expected = [f"{pictures}/{i - 1}.png: not a readable image" for i in ids if i in (5, 9)]
            assert [m.partition(": ")[0] for m in batch.messages] == [m.partition(": ")[0] for m in expected]


def steps_ids(found: list[list[Batch]], rank: int | None) -> list[list[int]]:
    """The ids of each step; with a rank, those of its half, or the first where it has none."""
    ids = [[i for part in parts for i in part.image_ids] for parts in found]
    if rank is None:
        return ids
    return [(i[: -(-len(i) // 2)] if rank == 0 else i[-(-len(i) // 2) :]) or i[:1] for i in ids]


def test_a_bad_image_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = data_sets.with_squares(tmp_path, 4)
    location = locate(tmp_path, "train")
    assert location is not None
    split = read_split(location, Problems(skip=False))
    data_sets.truncate(pictures / "2.png")
    dataset = CocoDataset(split, split.categories, RECIPE)
    asked: list[int] = []
    augmented = dataset.augmented

    def counted(draw: Any) -> Any:
        asked.append(draw.index)
        return augmented(draw)

    monkeypatch.setattr(dataset, "augmented", counted)
    found = steps_of(dataset, RECIPE, last=5)
    assert asked.count(2) == 1
    assert all(len(batch.images) == 4 and len(batch.messages) == 1 for (batch,) in found)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_readable_image_at_all(tmp_path: Path, workers: int) -> None:
    pictures = data_sets.with_squares(tmp_path, 3)
    location = locate(tmp_path, "train")
    assert location is not None
    split = read_split(location, Problems(skip=False))
    for file in pictures.iterdir():
        data_sets.truncate(file)
    recipe = RECIPE.replace(workers=workers)
    with pytest.raises(InputError, match=r"instances_train\.json: no readable image: .*\.png") as caught:
        steps_of(CocoDataset(split, split.categories, recipe), recipe)
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_than_when_it_was_checked_is_bad(tmp_path: Path) -> None:
    pictures = data_sets.with_squares(tmp_path, 4, tall=lambda index: index == 3)
    location = locate(tmp_path, "train")
    assert location is not None
    split = read_split(location, Problems(skip=False))
    (pictures / "0.png").write_bytes((pictures / "3.png").read_bytes())
    found = CocoDataset(split, split.categories)[0]
    assert isinstance(found, BadImage)
    assert found.message == (
        f"{pictures}/0.png: the image is 48x64 pixels, its entry says 64x48 (image id 1)"
    )


def test_the_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "available_cores", lambda: 12)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    gpu = torch.device("cuda")
    assert loader.num_workers(Recipe(), CPU) == 0
    assert loader.num_workers(Recipe(), gpu) == loader.MAX_WORKERS
    for processes, expected in (("2", 6), ("5", 2), ("16", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert loader.num_workers(Recipe(), gpu) == expected
    assert loader.num_workers(Recipe(workers=3), gpu) == 3


def test_decoded_images_are_kept_within_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_sets.with_squares(tmp_path, 4)
    whole = steps(tmp_path)
    size = 3 * 48 * 64
    monkeypatch.setattr("retinanet_fast.engine.data.loader.ImageCache", lambda: ImageCache(2 * size + 1))
    location = locate(tmp_path, "train")
    assert location is not None
    split = read_split(location, Problems(skip=False))
    dataset = CocoDataset(split, split.categories, RECIPE)
    assert_same(steps_of(dataset, RECIPE), whole)
    cache = dataset.cache
    assert cache is not None
    assert cache.left == 1
    kept = [i for i in range(1, 5) if cache.get(i) is not None]
    assert len(kept) == 2
    # Training on them has not changed them.
    plain = CocoDataset(split, split.categories)
    for i in kept:
        sample, decoded = plain[i - 1], cache.get(i)
        assert decoded is not None
        assert isinstance(sample, Sample)
        assert torch.equal(sample.image, decoded.image)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*no accelerator is found")  # where there is no GPU
def test_for_a_gpu_a_batch_is_one_tensor_and_its_targets_have_few_shapes(tmp_path: Path) -> None:
    data_sets.with_squares(tmp_path, 4)
    location = locate(tmp_path, "train")
    assert location is not None
    split = read_split(location, Problems(skip=False))
    dataset = CocoDataset(split, split.categories, RECIPE)
    order = TrainOrder(dataset.images, RECIPE)
    gpu = torch.device("cuda")
    found = list(train_batches(dataset, order, RECIPE, gpu, first_step=0, last_step=2))
    for [batch], [plain] in zip(found, steps(tmp_path, last=2), strict=True):
        assert batch.packed is not None
        assert batch.packed.batch_sizes == plain.sizes
        memory = batch.packed.pixels.untyped_storage().data_ptr()
        assert {image.untyped_storage().data_ptr() for image in batch.images} == {memory}
        assert values(batch) == values(plain)
        assert all(torch.equal(a, b) for a, b in zip(batch.images, plain.images, strict=True))
        assert batch.targets["labels"].shape == (4, 64)
        assert torch.equal(batch.targets["counts"], plain.targets["counts"])
