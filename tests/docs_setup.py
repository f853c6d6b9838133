"""What the code blocks of README and docs find defined: a page imports it in a block that readers do not see."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from PIL import Image

from retinanet_fast.engine import checkpoint
from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.data.rendered import RenderOptions, render_data_set
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.models import RetinaNet
from retinanet_fast.nn import retinanet_anchor_generator

generator = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=generator)


# A detector's candidates.
logits = random(20, 4).requires_grad_()
labels = torch.arange(20) % 4
corners = random(20, 2) * 80
boxes = torch.cat((corners, corners + 10), dim=1)
scores, classes = random(20), labels

# Two images of 128 pixels for a model, and the outputs of a head with three classes.
images = [random(3, 128, 128) for _ in range(2)]
targets = [{"boxes": torch.tensor([[10.0, 20.0, 60.0, 90.0]]), "labels": torch.tensor([1])} for _ in range(2)]
image_sizes = [(128, 128)] * 2
levels = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
anchors = retinanet_anchor_generator()((128, 128), levels)
cls_logits = [(random(2, 9 * 3, *size) - 4).requires_grad_() for size in levels]
bbox_regression = [(random(2, 9 * 4, *size) * 0.1).requires_grad_() for size in levels]
gt_boxes, gt_labels = [target["boxes"] for target in targets], [target["labels"] for target in targets]

VOC = """<annotation><size><width>640</width><height>480</height></size>
<object><name>WBC</name><bndbox><xmin>68</xmin><ymin>315</ymin><xmax>286</xmax><ymax>480</ymax></bndbox></object>
<object><name>RBC</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


def write_voc_data_set(folder: str) -> None:
    """BCCD's layout with one image in each split, which has a box and one of a single pixel."""
    root = Path(folder)
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True)
    for number, split in enumerate(("train", "test", "val")):
        stem = f"BloodImage_0000{number * 7}"  # the tutorial looks at BloodImage_00007, of the test split
        (root / f"ImageSets/Main/{split}.txt").write_text(stem + "\n")
        (root / f"Annotations/{stem}.xml").write_text(VOC)
        Image.new("RGB", (640, 480), (200, 150, 150)).save(root / f"JPEGImages/{stem}.jpg")


def check_voc_data_set(folder: str) -> None:
    """The conversion of the image above: COCO's form of the one box, without the single pixel."""
    for split in ("train", "val", "test"):
        content = json.loads((Path(folder) / f"annotations/instances_{split}.json").read_text())
        assert [box["bbox"] for box in content["annotations"]] == [[67, 314, 219, 166]]
        assert [box["category_id"] for box in content["annotations"]] == [2]


def write_checkpoint(run: str, names: list[str]) -> None:
    """A checkpoint of an untrained small model."""
    recipe = Recipe(
        arch="resnet18", fpn_channels=16, min_size=[96], max_size=128, anchor_sizes=[8, 16, 32, 64, 128]
    )
    model = build_model(recipe, len(names) + 1)
    categories = [Category(number, name) for number, name in enumerate(names, 1)]
    Path(run).mkdir(parents=True)
    checkpoint.Checkpoint(model.state_dict(), recipe, categories, epoch=1).save(Path(run) / checkpoint.LAST)


def write_data_set(folder: str) -> None:
    """Four small rendered images to train on, and one to evaluate on."""
    render_data_set(Path(folder), RenderOptions(train=4, val=1, size=64))


def small_model() -> RetinaNet:
    """An untrained detector that any machine runs in no time."""
    recipe = Recipe(arch="resnet18", fpn_channels=16, min_size=[192], max_size=256)
    return build_model(recipe, 3).eval()


def one_process() -> None:
    """What torchrun sets for a world of one process."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")


__all__ = [name for name in globals() if not name.startswith("_")]
