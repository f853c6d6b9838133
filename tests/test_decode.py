"""Decoding: which way up, and how finely; boxes and detections follow."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet_fast.engine.data.augment import augment
from retinanet_fast.engine.data.batch import collate
from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.data.dataset import BadImage, CocoDataset, Sample, to_model
from retinanet_fast.engine.data.decode import Decoding, WrongSize, decode
from retinanet_fast.engine.data.order import Draw
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.results import from_batch
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.structures import Detections

# What each EXIF orientation does to the upper left pixel's corner: where the stored (0, 0) is in the upright picture,
# as (right, bottom). From the EXIF standard's table of the 0th row and the 0th column.
CORNERS = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}
WIDTH, HEIGHT = 40, 24


def photo(
    path: Path, orientation: int | None, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any
) -> Path:
    """Black, with a white stored upper left corner."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


def white_corner(image: torch.Tensor) -> tuple[int, int]:
    """The corner (right, bottom) that is white."""
    lit = image.float().mean(0)
    rows, columns = lit.shape
    halves = [
        (x, y)
        for x in (0, 1)
        for y in (0, 1)
        if lit[y * (rows - 4) :, x * (columns - 4) :][:4, :4].mean() > 128
    ]
    assert len(halves) == 1
    return halves[0]


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_each_orientation_as_exif_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = photo(tmp_path / f"a.{suffix}", orientation)
    turned = (HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT)
    for stated in (None, turned):
        upright = decode(path, stated, "upright")
        assert upright.size == turned
        assert upright.image.shape == (3, turned[1], turned[0])
        assert white_corner(upright.image) == CORNERS[orientation]
    for stated in (None, (WIDTH, HEIGHT)):
        stored = decode(path, stated, "stored")
        assert (stored.size, white_corner(stored.image)) == ((WIDTH, HEIGHT), (0, 0))


@pytest.mark.parametrize("orientation", CORNERS)
def test_auto_takes_what_has_the_stated_size(tmp_path: Path, orientation: int) -> None:
    path = photo(tmp_path / "a.jpg", orientation)
    # A picture whose size is the same both ways is read as stored, as its annotations' program most likely did.
    assert white_corner(decode(path, (WIDTH, HEIGHT)).image) == (0, 0)
    if orientation >= 5:
        assert white_corner(decode(path, (HEIGHT, WIDTH)).image) == CORNERS[orientation]
    else:
        with pytest.raises(WrongSize, match="the image is 40x24 pixels, its entry says 24x40"):
            decode(path, (HEIGHT, WIDTH))
    assert white_corner(decode(path).image) == CORNERS[orientation]  # no size is stated: as people see it


@pytest.mark.parametrize("orientation", [None, 0, 9, 255])
def test_an_orientation_that_is_none_is_left(tmp_path: Path, orientation: int | None) -> None:
    path = photo(tmp_path / "a.jpg", orientation)
    for mode in ("auto", "stored", "upright"):
        assert decode(path, orientation=mode).size == (WIDTH, HEIGHT)


def test_a_size_that_neither_way_has_is_wrong(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", 6)
    for mode, found in (("auto", "40x24"), ("stored", "40x24"), ("upright", "24x40")):
        with pytest.raises(WrongSize, match=f"the image is {found} pixels, its entry says 41x24"):
            decode(path, (41, 24), mode)


@pytest.mark.parametrize(
    ("size", "least", "scale"),
    [
        ((400, 300), (400, 300), 1),
        ((400, 300), (201, 150), 1),
        ((400, 300), (200, 150), 2),
        ((400, 300), (100, 76), 2),
        ((400, 300), (100, 75), 4),
        ((401, 303), (50, 37), 8),
        ((4001, 16), (1, 1), 8),
        ((3, 5), (1, 1), 2),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_decoded_no_coarser_than_asked(
    tmp_path: Path, size: tuple[int, int], least: tuple[int, int], scale: int, orientation: int
) -> None:
    path = photo(tmp_path / "a.jpg", orientation, size, quality=100)
    way = 1 if orientation == 1 else -1
    found = decode(path, least=lambda whole: least[::way])
    assert (found.size, found.scale) == (size[::way], scale)
    width, height = size[::way]
    assert found.image.shape == (3, -(-height // scale), -(-width // scale))


def test_other_formats_are_decoded_whole(tmp_path: Path) -> None:
    found = decode(photo(tmp_path / "a.png", None), least=lambda whole: (1, 1))
    assert (found.scale, found.image.shape) == (1, (3, HEIGHT, WIDTH))


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_coarser_pixels_are_the_means_of_what_they_stand_for(scale: int) -> None:
    """The bound that the documentation states: 2 of 255 in the mean, on a smooth picture with grain as photographs
    have it. A picture of pure noise is not what the decoder's filter is made for."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:256, 0:320] / 64
    waves = np.stack([np.sin(x * 3 + k) + np.cos(y * 2 - k) for k in range(3)], axis=2)
    pixels = np.clip(128 + 50 * waves + generator.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    with Image.open(file) as picture:
        whole = np.asarray(picture.convert("RGB"), dtype=np.float64)
    with Image.open(file) as picture:
        picture.draft(None, (320 // scale, 256 // scale))
        coarse = np.asarray(picture.convert("RGB"), dtype=np.float64)
    means = whole.reshape(256 // scale, scale, 320 // scale, scale, 3).mean(axis=(1, 3))
    assert abs(coarse - means).mean() < 2


def data_set(
    folder: Path, orientation: int | None = None, stated: tuple[int, int] = (400, 320)
) -> CocoDataset:
    """One photo of 400x320 stored pixels, white on the upper left 80x80 of them, which are its box."""
    (folder / "images").mkdir()
    pixels = np.zeros((320, 400, 3), dtype=np.uint8)
    pixels[:80, :80] = 255
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(folder / "images" / "a.jpg", exif=exif)
    x = 0 if orientation is None else 240  # turned to the right, the corner is the upper right one
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": stated[0], "height": stated[1]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [x, 0, 80, 80]}],
        "categories": [{"id": 1, "name": "corner"}],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    location = locate(folder, "train")
    assert location is not None
    split = read_split(location, Problems(False))
    return CocoDataset(split, split.categories, Recipe(min_size=[40, 80], max_size=200, hflip=0.0))


@pytest.mark.parametrize(("orientation", "stated"), [(None, (400, 320)), (6, (320, 400))])
def test_boxes_follow_their_image(tmp_path: Path, orientation: int | None, stated: tuple[int, int]) -> None:
    dataset = data_set(tmp_path, orientation, stated)
    found = dataset[0]
    assert isinstance(found, Sample)
    assert (found.size, found.scale) == (stated, 4)  # 80 of 320 pixels are needed, for either drawn size
    assert found.image.shape == (3, stated[1] // 4, stated[0] // 4)
    x1, y1, x2, y2 = (int(value) for value in found.boxes[0].tolist())
    inside = found.image[:, y1:y2, x1:x2].float()
    assert (inside.mean(), inside.shape) == (255, (3, 20, 20))
    assert found.image.float().sum() == pytest.approx(inside.sum(), rel=0.01)  # but for JPEG's ringing
    augmented = dataset.augmented(Draw(0, 0))
    assert not isinstance(augmented, BadImage)
    assert torch.equal(augmented.boxes, found.boxes)


def test_detections_are_given_in_pixels_of_the_whole_image() -> None:
    boxes = torch.tensor(
        [[[1.0, 2.0, 25.25, 20.0], [0.0, 0.0, 26.0, 5.0]], [[1.5, 2.0, 3.0, 4.0], [0, 0, 1, 1]]]
    )
    found = Detections(boxes, torch.ones(2, 2), torch.ones(2, 2, dtype=torch.int64), torch.tensor([2, 1]))
    made = from_batch(found, [7, 8], [3], [((101, 80), 4), ((9, 9), 1)])
    assert made.image_id.tolist() == [7, 7, 8]
    # The last of the 26 pixels stands for one of the whole image's alone: 4 x 26 is clipped to 101.
    assert made.bbox.tolist() == [[4, 8, 97, 72], [0, 0, 101, 20], [1.5, 2, 1.5, 2]]


@pytest.mark.parametrize("jpeg_draft", [True, False])
def test_a_recipe_decodes_for_the_largest_size_that_it_draws(tmp_path: Path, jpeg_draft: bool) -> None:
    path = photo(tmp_path / "a.jpg", None, (1600, 1200))
    recipe = Recipe(min_size=[150, 300], max_size=4000, jpeg_draft=jpeg_draft)

    def scale(recipe: Recipe, training: bool = True) -> int:
        return Decoding.of(recipe, training)(path).scale

    scales = (
        scale(recipe),
        scale(recipe.replace(min_size=[300, 150])),
        scale(recipe.replace(min_size=[300, 150]), training=False),
        scale(recipe.replace(scale_jitter=[0.1, 2.0])),
        scale(recipe.replace(min_size=[800])),
    )
    assert scales == ((4, 4, 8, 2, 1) if jpeg_draft else (1,) * 5)


def test_pixels_keep_their_order_in_memory_as_far_as_a_batch_for_a_gpu(tmp_path: Path) -> None:
    """From the decoder to the packed batch every image is [h, w, 3] in memory: to change that and change it back would
    take a third of a loader's time."""
    path = photo(tmp_path / "a.jpg", 6)
    image = decode(path).image
    assert image.permute(1, 2, 0).is_contiguous()
    boxes, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    recipe = Recipe(scale_jitter=[1.5, 2.0], hflip=1.0, vflip=1.0, min_size=[24], max_size=64)
    augmented = augment(image, boxes, labels, recipe, 0, 1)
    assert augmented.image.shape != image.shape
    assert augmented.image.permute(1, 2, 0).is_contiguous()
    batch = collate([augmented], 32).pack()
    assert batch.packed is not None
    assert batch.packed.pixels.permute(0, 2, 3, 1).is_contiguous()
    # A CPU takes planes.
    (plain,) = to_model([augmented.image], torch.device("cpu"))
    assert plain.is_contiguous()
    torch.testing.assert_close(plain, augmented.image / 255, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    """As Pillow itself converts it."""
    picture = Image.fromarray(np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)).convert(mode)
    path = tmp_path / "a.tiff"
    picture.save(path)
    expected = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    torch.testing.assert_close(decode(path).image, expected, rtol=0, atol=0)
