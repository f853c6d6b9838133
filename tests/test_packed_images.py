"""Raw images packed into one tensor: the batch is the transform's own, in as many calls for any images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from retinanet_fast import models
from retinanet_fast.nn import DetectionTransform, PackedImages, pack_images, pad_targets
from retinanet_fast.nn.transform import IMAGENET_MEAN, IMAGENET_STD

# A value of the batch is at most 2.7, and a sum of four products with two more roundings. s, where the interpolation
# reads, is rounded at up to 640, by 6e-5 at most, on processors that do not round as fused multiply-add does; there
# two neighbours of noise are up to 4.5 apart.
FMA = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
TOLERANCE = 2e-6 if FMA else 3e-4


def raw(shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *shape), generator=generator, dtype=torch.uint8) for shape in shapes]


def as_floats(images: list[Tensor]) -> list[Tensor]:
    return [image.float() / 255 for image in images]


CASES = {
    "one": ([(31, 45)], 64, 96),
    "two sizes": ([(48, 64), (61, 37)], 64, 96),
    "three, smaller": ([(101, 77), (99, 200), (64, 300)], 32, 64),
    "four, a pixel wide or high": ([(20, 480), (480, 20), (1, 1), (7, 1)], 96, 96),
    "five, as they are": ([(64, 64)] * 5, 64, 64),
    "photographs": ([(480, 640), (427, 640)], 600, 1000),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("room", [None, (500, 700)], ids=["exact", "roomy"])
def test_the_batch_is_the_transforms(case: str, room: tuple[int, int] | None) -> None:
    shapes, min_size, max_size = CASES[case]
    transform = DetectionTransform(min_size, max_size, IMAGENET_MEAN, IMAGENET_STD)
    images = raw(shapes)
    packed = pack_images(images, transform.batch_sizes(images), room)
    # What is in the padding is not read.
    for row, (height, width) in zip(packed.pixels, shapes, strict=True):
        row[:, height:] = 255
        row[:, :, width:] = 255
    boxes = torch.tensor([[1.0, 2.0, 30.0, 20.0]])
    targets = pad_targets([{"boxes": boxes, "labels": torch.tensor([1])}] * len(images), 4)
    expected, right = transform(as_floats(images), targets)
    found, scaled = transform(packed, targets)
    torch.testing.assert_close(found.tensors, expected.tensors, rtol=0, atol=TOLERANCE)
    assert found.image_sizes.tolist() == [list(size) for size in expected.image_sizes]
    assert torch.equal(scaled["boxes"], right["boxes"])
    assert scaled["counts"] is targets["counts"]
    for row, (height, width) in zip(found.tensors, expected.image_sizes, strict=True):
        assert not row[:, height:].any()
        assert not row[:, :, width:].any()


@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)
def test_the_batch_has_the_memory_format_of_the_pixels(memory_format: torch.memory_format) -> None:
    transform = DetectionTransform(64, 96, IMAGENET_MEAN, IMAGENET_STD)
    images = raw([(31, 45), (50, 40)])
    packed = pack_images(images, transform.batch_sizes(images))
    assert packed.pixels.is_contiguous(memory_format=torch.channels_last)
    pixels = packed.pixels.contiguous(memory_format=memory_format)
    other = PackedImages(pixels, packed.sizes, packed.resized, packed.batch_sizes)
    found = transform(other)[0].tensors
    assert found.is_contiguous(memory_format=memory_format)
    assert torch.equal(found, transform(packed)[0].tensors)


class Launches(TorchDispatchMode):
    """Counts the operators that are called and are no views: on a GPU each is a launch or a few."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = [value.alias_info for value in func._schema.returns]
        self.count += not any(alias is not None and not alias.is_write for alias in returned)
        return func(*args, **(kwargs or {}))


def test_the_number_of_calls_does_not_depend_on_the_images() -> None:
    counts = set()
    for shapes, min_size, max_size in CASES.values():
        transform = DetectionTransform(min_size, max_size, IMAGENET_MEAN, IMAGENET_STD)
        images = raw(shapes)
        packed = pack_images(images, transform.batch_sizes(images))
        with Launches() as launches:
            transform(packed)
        counts.add(launches.count)
    assert len(counts) == 1
    assert counts.pop() <= 50


def test_no_value_is_read_on_the_host() -> None:
    """Fake tensors have no values: reading one raises."""
    transform = DetectionTransform(64, 96, IMAGENET_MEAN, IMAGENET_STD)
    images = raw([(31, 45), (50, 40)])
    packed = pack_images(images, transform.batch_sizes(images))
    targets = pad_targets([{"boxes": torch.ones(1, 4), "labels": torch.ones(1, dtype=torch.int64)}] * 2)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fake = PackedImages(
            *(mode.from_tensor(x) for x in (packed.pixels, packed.sizes, packed.resized)), packed.batch_sizes
        )
        batch, scaled = transform(fake, {key: mode.from_tensor(value) for key, value in targets.items()})
    assert tuple(batch.tensors.shape[-2:]) == packed.batch_sizes.padded
    assert scaled is not None


def tiny() -> models.RetinaNet:
    torch.manual_seed(0)
    return models.retinanet_resnet18_fpn(num_classes=3, min_size=64, max_size=96)


def test_the_model_takes_them() -> None:
    model = tiny()
    images = raw([(48, 64), (61, 37)])
    packed = pack_images(images, model.transform.batch_sizes(images))
    boxes = torch.tensor([[5.0, 5.0, 30.0, 40.0]])
    targets = pad_targets([{"boxes": boxes, "labels": torch.tensor([1])}] * 2)
    losses, expected = model(packed, targets, packed.batch_sizes), model(as_floats(images), targets)
    for key, loss in expected.items():
        # The batches differ in their last bits, and the network's sums grow that.
        torch.testing.assert_close(losses[key], loss, rtol=1e-4, atol=1e-6)
    model.eval()
    with torch.no_grad():
        found, right = model.detect_batch(packed), model.detect_batch(as_floats(images))
    assert torch.equal(found.counts, right.counts)
    torch.testing.assert_close(found.scores, right.scores, rtol=1e-4, atol=1e-6)


def test_sizes_drawn_again() -> None:
    transform = DetectionTransform((32, 64), 96, IMAGENET_MEAN, IMAGENET_STD)
    images = raw([(48, 64)] * 8)
    packed = pack_images(images, transform.eval().batch_sizes(images))
    smaller = DetectionTransform(32, 96, IMAGENET_MEAN, IMAGENET_STD).batch_sizes(images)
    again = packed.with_sizes(smaller)
    assert transform(again)[0].tensors.shape[-2:] == (32, 64)
    assert transform.batch_sizes(again) == smaller
    with pytest.raises(ValueError, match=r"expected the sizes of the packed images, .*with_sizes"):
        transform(packed, None, smaller)


def test_bad_arguments_are_named() -> None:
    transform = DetectionTransform(64, 96, IMAGENET_MEAN, IMAGENET_STD)
    images = raw([(31, 45)])
    sizes = transform.batch_sizes(images)
    with pytest.raises(ValueError, match="as many images as sizes, and one at least, got 0 and 1"):
        pack_images([], sizes)
    with pytest.raises(TypeError, match=r"uint8 images, got torch\.float32 at index 0"):
        pack_images(as_floats(images), sizes)
    with pytest.raises(ValueError, match=r"images \[3, H, W\], got \[1, 31, 45\] at index 0"):
        pack_images([images[0][:1]], sizes)
    with pytest.raises(ValueError, match="at most 31x40"):
        pack_images(images, sizes, (31, 40))
    with pytest.raises(TypeError, match="padded targets with packed images, got a list"):
        transform(pack_images(images, sizes), [{"boxes": torch.zeros(0, 4)}])
    with pytest.raises(ValueError, match=r"expected padded boxes \[1, G, 4\], got \[2, 1, 4\]"):
        tiny()(
            pack_images(images, sizes),
            pad_targets([{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}] * 2),
        )


def test_autocast_does_not_round_the_batch() -> None:
    transform = DetectionTransform(64, 96, IMAGENET_MEAN, IMAGENET_STD)
    images = raw([(31, 45), (50, 40)])
    packed = pack_images(images, transform.batch_sizes(images))
    with torch.autocast("cpu", torch.bfloat16):
        found = transform(packed)[0].tensors
    assert torch.equal(found, transform(packed)[0].tensors)
