"""Loads the batches of a training run, without a model, and says how fast and in how much memory: one json a line."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.data_scale.pss import process_set, pss
from benchmarks.harness import status_bytes
from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.data.dataset import CocoDataset
from retinanet_fast.engine.data.loader import train_batches
from retinanet_fast.engine.data.order import TrainOrder
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.recipe import load


def main(arguments: list[str]) -> int:
    parse = argparse.ArgumentParser()
    parse.add_argument("--data", type=Path, required=True)
    parse.add_argument("--split", default="train")
    parse.add_argument("--recipe", default="coco")
    parse.add_argument("--values", type=json.loads, default={}, help="json of recipe values that differ")
    parse.add_argument("--device", default="cpu", help="cuda: packed as for a GPU, which need not be there")
    parse.add_argument("--steps", type=int, default=0, help="0: an epoch")
    parse.add_argument("--reports", type=int, default=20, help="how often the memory is looked at")
    options = parse.parse_args(arguments)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")  # where no GPU is
    try:
        run(options)
    except InputError as error:
        print(error)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    started = time.perf_counter()
    recipe = load(options.recipe).replace(**options.values)
    location = locate(options.data, options.split)
    if location is None:
        raise InputError(f"{options.data}: no split {options.split}")
    split = read_split(location, Problems(skip=False))
    dataset = CocoDataset(split, split.categories, recipe)
    order = TrainOrder(dataset.images, recipe)
    say(
        event="read",
        images=len(dataset),
        seconds=time.perf_counter() - started,
        peak=status_bytes("VmHWM") / 1e6,
    )
    steps = options.steps or order.steps_per_epoch
    device = torch.device(options.device)
    images, due = 0, 0
    for step, batches in enumerate(
        train_batches(dataset, order, recipe, device, first_step=0, last_step=steps), start=1
    ):
        if step == 1:
            began = time.perf_counter()  # the workers have begun
        else:
            images += sum(len(batch.images) for batch in batches)
        if step == 1 or step * options.reports // steps > due:
            due = step * options.reports // steps
            seconds = time.perf_counter() - began
            say(event="loading", step=step, images=images, seconds=seconds, pss=pss(process_set()))


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
