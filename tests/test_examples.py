"""The examples for other libraries' loops train as the program's own loop does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny_run import render, tiny_run
from torch import nn

from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.training.train import train

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# Two epochs of three steps, one of them of two images.
RECIPE = Recipe(
    arch="resnet18",
    fpn_channels=16,
    min_size=[64],
    max_size=64,
    anchor_sizes=[8, 16, 32, 64, 128],
    epochs=2,
    batch_size=4,
    lr=0.01,
    warmup_iters=3,
    clip_norm=1.0,
    precision="float32",
    channels_last=False,
    workers=0,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("data"), train=10, val=2)


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return train(tiny_run(data, tmp_path_factory.mktemp("run"), RECIPE))


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    weights = expected.state_dict()
    for name, tensor in found.state_dict().items():
        # The same images, rates and operations; only the gradient's norm, to clip it, may be added up in another order.
        torch.testing.assert_close(tensor, weights[name], rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("accelerate_retinanet", "lightning_retinanet"):
        sys.modules.pop(name, None)


def test_accelerate(data: Path, expected: nn.Module) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")
    import accelerate_retinanet

    assert_same(accelerate_retinanet.train(data, RECIPE, cpu=True), expected)


def test_lightning(data: Path, expected: nn.Module) -> None:
    pytest.importorskip("lightning", reason="lightning is not installed: pip install lightning")
    import lightning_retinanet

    options = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    found = lightning_retinanet.train(data, RECIPE, enable_progress_bar=False, **options)
    assert_same(found, expected)
