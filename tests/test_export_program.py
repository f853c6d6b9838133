"""torch.export of the whole evaluation: any batch and any size, saved and loaded again."""

from __future__ import annotations

import io

import pytest
import torch
from torch.export import Dim, ExportedProgram

from retinanet_fast import models
from retinanet_fast.structures import Detections

FIELDS = ("boxes", "scores", "labels", "counts")


def detector() -> models.BatchDetector:
    """With several hundred candidates per image, so that NMS has something to do."""
    torch.manual_seed(0)
    model = models.retinanet_resnet18_fpn(num_classes=4, min_size=150, max_size=224, score_thresh=0.009)
    return models.BatchDetector(model).eval()


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    batch, height, width = (Dim(name) for name in ("batch", "height", "width"))
    sizes = {"images": {0: batch, 2: height, 3: width}}
    return torch.export.export(detector(), (torch.rand(2, 3, 60, 80),), dynamic_shapes=sizes)


def same(found: Detections, expected: Detections) -> None:
    """The same kernels on the same numbers: equal to the bit."""
    assert isinstance(found, Detections)
    for field in FIELDS:
        assert torch.equal(getattr(found, field), getattr(expected, field)), field


@pytest.mark.parametrize(
    "shape",
    # Wide and high; larger and smaller than the limits, of which the last meets max_size first; one image, and three.
    [(2, 60, 80), (3, 80, 50), (1, 64, 64), (2, 300, 200), (1, 40, 62)],
    ids=str,
)
def test_any_batch_and_size(program: ExportedProgram, shape: tuple[int, int, int]) -> None:
    images = torch.rand(shape[0], 3, *shape[1:])
    with torch.no_grad():
        expected = detector()(images)
        assert (expected.counts > 0).all()
        same(program.module()(images), expected)


def test_saved_and_loaded(program: ExportedProgram) -> None:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    images = torch.rand(2, 3, 90, 70)
    with torch.no_grad():
        same(loaded(images), detector()(images))


def test_the_module_is_the_models_evaluation() -> None:
    module = detector()
    images = torch.rand(2, 3, 90, 70)
    with torch.no_grad():
        expected = module.model(list(images))
        for found, image in zip(module(images).unpack(), expected, strict=True):
            assert all(torch.equal(found[key], image[key]) for key in ("boxes", "scores", "labels"))
