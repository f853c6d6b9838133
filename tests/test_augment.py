"""Augmentation keeps boxes on their objects, and depends on seed, epoch and image alone."""

from __future__ import annotations

import builtins
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet_fast.engine.data.augment import (
    Augmented,
    augment,
    check_augmentation,
    distort,
    flip,
    scale_jitter,
)
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe import Recipe

SQUARES = torch.tensor([[10.0, 12.0, 40.0, 42.0], [60.0, 30.0, 90.0, 60.0]])
LABELS = torch.tensor([1, 2])


def picture() -> Tensor:
    """Two squares, 50 and 200, on black."""
    image = torch.zeros(3, 80, 120, dtype=torch.uint8)
    for (x1, y1, x2, y2), value in zip(SQUARES.int().tolist(), (50, 200)):
        image[:, y1:y2, x1:x2] = value
    return image


def augmented(recipe: Recipe, epoch: int = 0, image_id: int = 1) -> Augmented:
    return augment(picture(), SQUARES, LABELS, recipe, epoch, image_id)


def extent(image: Tensor, value: int) -> list[int]:
    """The box of the pixels that have a value."""
    rows, columns = (image[0] == value).nonzero().unbind(1)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def test_boxes_stay_on_their_objects() -> None:
    """Over flips and crops: the pixels of an object, found in the image, are those of its box."""
    recipe = Recipe(min_size=[40], max_size=100, hflip=0.5, vflip=0.5, scale_jitter=[0.5, 3.0])
    seen, dropped = set(), 0
    for epoch in range(60):
        found = augmented(recipe, epoch)
        assert found.boxes.shape == (len(found.labels), 4)
        for box, label in zip(found.boxes.tolist(), found.labels.tolist()):
            assert extent(found.image, {1: 50, 2: 200}[label]) == [round(value) for value in box]
        dropped += 2 - len(found.labels)
        seen.add(tuple(found.image.shape))
    assert dropped > 0
    assert len(seen) > 20


@pytest.mark.parametrize("horizontal", [True, False])
def test_a_flip_moves_boxes_with_their_pixels(horizontal: bool) -> None:
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[:, 4:9, 3:13] = 255
    flipped, boxes = flip(image, torch.tensor([[3.0, 4.0, 13.0, 9.0]]), horizontal)
    rows, columns = flipped[0].nonzero().unbind(1)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert boxes[0].tolist() == [float(value) for value in found]
    again, same = flip(flipped, boxes, horizontal)
    assert torch.equal(again, image)
    assert same.tolist() == [[3.0, 4.0, 13.0, 9.0]]


def test_it_depends_on_seed_epoch_and_image_alone() -> None:
    recipe = Recipe(min_size=[40, 60], max_size=100, vflip=0.5, scale_jitter=[0.5, 2.0])
    first = augmented(recipe)
    random.seed(3)
    torch.manual_seed(3)
    again = augmented(recipe)
    assert all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(first, again, strict=True)
    )
    others = [augmented(recipe, 1), augmented(recipe, 0, 2), augmented(recipe.replace(seed=1))]
    assert len({(tuple(found.image.shape), found.resized) for found in [first, *others]}) == 4


def test_each_training_size_is_drawn() -> None:
    recipe = Recipe(min_size=[40, 60], max_size=100)
    sizes = {augmented(recipe, epoch).resized for epoch in range(20)}
    assert sizes == {(40, 60), (60, 90)}
    assert all(augmented(recipe, epoch).room in sizes for epoch in range(4))


def test_a_factor_below_one_makes_the_image_smaller_in_the_same_room() -> None:
    recipe = Recipe(min_size=[40], max_size=100, hflip=0.0, scale_jitter=[0.5, 0.5])
    found = augmented(recipe)
    assert torch.equal(found.image, picture())
    assert torch.equal(found.boxes, SQUARES)
    assert (found.resized, found.room) == ((20, 30), (40, 60))


def test_a_factor_above_one_is_a_crop_of_the_enlarged_image() -> None:
    """The window, resized, against the resized image, cropped; where the factor divides the sides they agree but for
    the window's border, where interpolation no longer sees the pixels outside."""
    image = torch.randint(0, 256, (3, 80, 120), dtype=torch.uint8)
    draw = random.Random(0)
    window, boxes, labels, size = scale_jitter(image, SQUARES, LABELS, (80, 120), 2.0, draw)
    assert window.shape == (3, 40, 60)
    assert size == (80, 120)
    place = [
        (top, left)
        for top in range(41)
        for left in range(61)
        if torch.equal(image[:, top : top + 40, left : left + 60], window)
    ]
    ((top, left),) = place
    enlarged = F.interpolate(image[None].float(), size=(160, 240), mode="bilinear", align_corners=False)
    expected = enlarged[:, :, 2 * top : 2 * top + 80, 2 * left : 2 * left + 120]
    resized = F.interpolate(window[None].float(), size=size, mode="bilinear", align_corners=False)
    assert torch.equal(resized[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1])
    assert window.untyped_storage().nbytes() == window.nbytes  # takes no more along to another process
    assert len(boxes) == len(labels)


def test_what_is_hardly_left_of_a_box_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of 40x60 pixels at (x, y): a box stays while more than a tenth of its area is inside."""

    def kept(left: int, top: int) -> list[list[float]]:
        draw = random.Random()
        values = iter([top, left])
        monkeypatch.setattr(draw, "randint", lambda *_: next(values))
        boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0]])
        return scale_jitter(picture(), boxes, LABELS[:1], (40, 60), 2.0, draw)[1].tolist()

    assert kept(0, 0) == [[0, 0, 20, 20]]
    assert kept(10, 5) == [[0, 0, 10, 15]]
    assert kept(17, 0) == [[0, 0, 3, 20]]
    assert kept(18, 0) == []
    assert kept(30, 30) == []


def test_images_without_boxes() -> None:
    recipe = Recipe(min_size=[40], max_size=100, vflip=0.5, scale_jitter=[0.5, 3.0])
    for epoch in range(5):
        found = augment(picture(), SQUARES[:0], LABELS[:0], recipe, epoch, 1)
        assert found.boxes.shape == (0, 4)
        assert found.labels.shape == (0,)


def test_photometric_distortion_without_torchvision_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    importer = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return importer(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    check_augmentation(Recipe(photometric=0.0))
    with pytest.raises(InputError, match=r"photometric = 0\.5 needs torchvision.*: pip install torchvision"):
        check_augmentation(Recipe(photometric=0.5))


def test_photometric_distortion_changes_colours_alone_and_the_same_way_each_time() -> None:
    pytest.importorskip("torchvision", reason="photometric distortion is torchvision's")
    recipe = Recipe(min_size=[40], max_size=100, hflip=0.0, photometric=0.5)
    check_augmentation(recipe)
    # A gradient: on flat colours some changes do not show.
    image = torch.arange(3 * 80 * 120).reshape(3, 80, 120).remainder(251).to(torch.uint8)
    first = augment(image, SQUARES, LABELS, recipe, 0, 1)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = augment(image, SQUARES, LABELS, recipe, 0, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.boxes, SQUARES)
    assert first.image.dtype == torch.uint8
    assert first.image.shape == image.shape
    images = [augment(image, SQUARES, LABELS, recipe, epoch, 1).image for epoch in range(12)]
    assert len({found.numpy().tobytes() for found in images}) > 8
    assert torch.equal(distort(image, 0.0, random.Random(0)), image)


def test_photometric_distortion_is_as_strong_as_torchvisions() -> None:
    """The ranges that are drawn from are the defaults of ``RandomPhotometricDistort``."""
    pytest.importorskip("torchvision", reason="photometric distortion is torchvision's")
    from torchvision.transforms import v2

    from retinanet_fast.engine.data import augment as module

    reference = v2.RandomPhotometricDistort()
    assert tuple(reference.brightness or ()) == module.BRIGHTNESS
    assert tuple(reference.contrast or ()) == module.CONTRAST
    assert tuple(reference.saturation or ()) == module.SATURATION
    assert tuple(reference.hue or ()) == module.HUE
