"""The values of a recipe, by section; their descriptions are the help of the command line's flags."""

# ruff: noqa: RUF009  (the calls in the class return dataclasses.field)
from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from retinanet_fast.engine.recipe.checks import V2, check, convert_all
from retinanet_fast.engine.recipe.toml import to_toml

__all__ = ["V2", "Recipe"]


def _value(default: Any, doc: str, *choices: str, section: str) -> Any:
    """A value with its one-line description and, where only some words are allowed, these."""
    metadata = {"doc": doc, "section": section, "choices": choices}
    if isinstance(default, Sequence) and not isinstance(default, str):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


_model = partial(_value, section="model")
_loss = partial(_value, section="loss")
_images = partial(_value, section="images")
_optimisation = partial(_value, section="optimisation")
_safety = partial(_value, section="safety")
_detection = partial(_value, section="detection and evaluation")
_running = partial(_value, section="running")


@dataclass
class Recipe:
    """The values of a training run. A recipe file names those that differ from these defaults.

    Sizes are pixels. ``retinanet-fast train --help`` lists every value with its flag. A value that is not allowed, or
    does not go with another, is a ``ValueError`` of one line.
    """

    arch: str = _model(
        "resnet50",
        "backbone: resnet18 ... resnet152, resnext101_32x8d, resnet50_v2, ..., or timm/NAME, torchvision/NAME",
    )
    fpn_channels: int = _model(256, "channels of the feature pyramid and of the head")
    norm: str = _model(
        "auto",
        "of the backbone; auto: batch, but frozen_batch of a ResNet (not v2) with init; sync_batch: over all GPUs",
        *("auto", "batch", "sync_batch", "frozen_batch", "group"),
    )
    head_norm: str = _model(
        "auto",
        "of the head; auto: group of resnet50_v2, otherwise none; group learns faster from scratch",
        *("auto", "none", "group"),
    )
    identity_start: bool = _model(
        False,
        "head, and residual blocks of this package's ResNets, start near the identity: learns faster from scratch",
    )
    init: str = _model(
        "", "file of weights to start from, a checkpoint, or torchvision's, detectron2's or mmdetection's"
    )
    trainable_layers: int = _model(
        -1,
        "with init, how many of a ResNet's 5 layers are trained, the last ones; -1: 3 (of timm/NAME and such: all)",
    )
    anchor_sizes: list[int] = _model([32, 64, 128, 256, 512], "smallest anchor of each level, in pixels")
    aspect_ratios: list[float] = _model([0.5, 1.0, 2.0], "anchor heights over widths")

    alpha: float = _loss(0.25, "focal loss: weight of foreground, background has 1 - alpha; -1: both have 1")
    gamma: float = _loss(2.0, "focal loss: exponent that plays down what is easy")
    box_loss: str = _loss(
        "auto",
        "of the deltas, or giou of the boxes; auto: l1, for resnet50_v2 giou",
        *("auto", "l1", "smooth_l1", "giou"),
    )
    smooth_l1_beta: float = _loss(1 / 9, "where smooth_l1 turns from square to linear")
    fg_iou_thresh: float = _loss(0.5, "anchors with an object of at least this IoU are foreground")
    bg_iou_thresh: float = _loss(0.4, "anchors below this IoU with every object are background")
    allow_low_quality_matches: bool = _loss(True, "each object also has the anchors that overlap it most")

    min_size: list[int] = _images(
        [800], "shorter side; several: training draws one per image, evaluation takes the last"
    )
    max_size: int = _images(1333, "the longer side is at most this")
    size_divisible: int = _images(32, "a batch is padded to a multiple of this")
    # ImageNet's, as torchvision's weights were trained with; also IMAGENET_MEAN and _STD, whose module imports torch.
    image_mean: list[float] = _images([0.485, 0.456, 0.406], "subtracted from red, green and blue in 0 to 1")
    image_std: list[float] = _images([0.229, 0.224, 0.225], "what red, green and blue are then divided by")
    hflip: float = _images(0.5, "probability of a left-right flip")
    vflip: float = _images(0.0, "probability of an up-down flip")
    scale_jitter: list[float] = _images(
        [],
        "lowest and highest factor of a drawn resize, then cropped or padded to the size, such as 0.1 2; none: off",
    )
    photometric: float = _images(
        0.0, "probability of changed colours, contrast and brightness; needs torchvision"
    )
    keep_empty: bool = _images(True, "train on images without boxes too")
    aspect_groups: int = _images(
        16, "so many batches' shuffled images are sorted by aspect ratio: less padding; 1 does not sort"
    )
    orientation: str = _images(
        "auto",
        "pixels as stored, or upright as EXIF says; auto: as stored where that has the annotated size, else upright",
        *("auto", "stored", "upright"),
    )
    jpeg_draft: bool = _images(
        True, "decode a JPEG at 1/2, 1/4 or 1/8 where the model's input is not larger than that"
    )

    epochs: int = _optimisation(12, "passes over the training images")
    batch_size: int = _optimisation(16, "images per step, over all processes")
    accumulate: int = _optimisation(1, "parts that each process computes a step's images in: less memory")
    epoch_steps: int = _optimisation(
        0, "at most so many steps per epoch, for large data sets; 0 takes every image"
    )
    optimizer: str = _optimisation("sgd", "SGD with momentum, or AdamW", *("sgd", "adamw"))
    lr: float = _optimisation(0.01, "learning rate after the warm-up")
    lr_batch_size: int = _optimisation(
        0, "images per step that lr is meant for: it is scaled by batch_size / this; 0: lr as written"
    )
    momentum: float = _optimisation(0.9, "momentum of sgd")
    weight_decay: float = _optimisation(1e-4, "weight decay")
    clip_norm: float = _optimisation(0.0, "largest norm of the gradient; 0 does not clip")
    ema_decay: float = _optimisation(
        0.0, "decay per step of the weights' moving average, which is evaluated and kept; 0: no average"
    )
    warmup_iters: int = _optimisation(500, "steps over which the learning rate rises linearly")
    schedule: str = _optimisation("steps", "how the learning rate falls", *("steps", "cosine"))
    steps: list[float] = _optimisation(
        [8, 11], "epochs after which the learning rate is multiplied by step_gamma"
    )
    step_gamma: float = _optimisation(0.1, "factor at each step")
    seed: int = _optimisation(0, "seed of weights, order and augmentation")

    nonfinite: str = _safety(
        "stop",
        "on a loss that is not finite, before the weights change: stop, or skip the step",
        *("stop", "skip"),
    )
    max_skips: int = _safety(10, "with nonfinite skip, stop all the same after so many steps in a row")

    score_thresh: float = _detection(0.05, "detections below this score are dropped")
    nms_thresh: float = _detection(0.5, "IoU above which the lower of two detections of a class is dropped")
    topk_candidates: int = _detection(1000, "candidates per level before suppression")
    detections_per_img: int = _detection(300, "detections kept per image")
    eval_every: int = _detection(1, "epochs between evaluations; the last epoch is always evaluated")
    score_beside: bool = _detection(
        False, "COCO's numbers and pictures by a process of its own, while the next epoch trains: for GPUs"
    )
    evaluator: str = _detection(
        "auto",
        "package that computes COCO's numbers, of which faster is faster-coco-eval; auto: that where installed",
        *("auto", "faster", "pycocotools"),
    )
    eval_images: int = _detection(0, "evaluate on the first so many images while training; 0 takes all")

    workers: int = _running(-1, "processes that load images; -1 chooses")
    threads: int = _running(0, "threads that compute, of each process; 0 chooses")
    precision: str = _running(
        "auto",
        "auto: bfloat16 where the device multiplies it fast, on other GPUs float16, otherwise float32",
        *("auto", "float32", "bfloat16", "float16"),
    )
    channels_last: bool = _running(True, "keep activations channels_last")
    compile: bool = _running(False, "compile backbone and head by torch.compile, once per padded size")
    cuda_graph: bool = _running(False, "replay each step as one CUDA graph, where sizes are fixed")
    checkpoint_minutes: float = _running(
        5.0, "minutes between checkpoints within an epoch; 0: only after each epoch"
    )
    keep_checkpoints: int = _running(1, "last checkpoints kept, beside the best")

    def __post_init__(self) -> None:
        convert_all(self)
        check(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as checkpoints keep them."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """The recipe as a file, every value written out with its description."""
        return to_toml(self)

    def replace(self, **values: Any) -> Recipe:
        """A copy with some values changed."""
        return dataclasses.replace(self, **values)
