"""The detector: images and targets in, losses or detections out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from retinanet_fast import ops
from retinanet_fast.models.head import RetinaNetHead
from retinanet_fast.models.targets import Targets, check_targets
from retinanet_fast.models.torchvision_parts import anchors_of, box_loss_of, check_parts, levels_of
from retinanet_fast.models.weights import rename_old_keys
from retinanet_fast.nn import (
    BatchSizes,
    DetectionTransform,
    ImageBatch,
    PackedImages,
    retinanet_anchor_generator,
)
from retinanet_fast.nn.batch_sizes import sizes_of
from retinanet_fast.nn.transform import IMAGENET_MEAN, IMAGENET_STD, Images
from retinanet_fast.structures import AnchorGrid, Detections

__all__ = ["RetinaNet"]


class RetinaNet(nn.Module):
    """RetinaNet (https://arxiv.org/abs/1708.02002) with the inputs, outputs and state dict of torchvision's.

    It is called with ``images``, a list of float tensors ``[3, H, W]`` in 0 to 1, of any sizes, or one tensor
    ``[B, 3, H, W]``; or with ``nn.PackedImages``, which hold raw pixels, together with padded targets.

    In training it also takes ``targets``, one dict per image of ``boxes`` (float ``[N, 4]``, xyxy in the image's
    pixels, x2 > x1 and y2 > y1) and ``labels`` (int64 ``[N]`` in ``[0, num_classes)``), and returns the losses
    ``{"classification", "bbox_regression"}``. In evaluation it returns one dict per image of ``boxes``, ``scores``
    and ``labels``, best first.

    ``targets`` may also be one dict of padded ``boxes`` ``[B, G, 4]``, ``labels`` ``[B, G]`` and ``counts`` ``[B]``
    (without it, all rows are boxes), as ``nn.pad_targets`` makes it. ``sizes``, a third argument, is
    ``transform.batch_sizes(images)``, computed before the call where the call itself is compiled.

    Args:
        backbone: turns images into a list or a dict of levels with ``backbone.out_channels`` channels each.
        num_classes: counting the background, which is class 0 by torchvision's convention.
        min_size, max_size, image_mean, image_std: see ``DetectionTransform``.
        anchor_generator, head: used instead of RetinaNet's own; torchvision's ``AnchorGenerator`` and ``RetinaNetHead``
            too. They, and the head's ``classification_head`` and ``regression_head``, may also be replaced later.
        proposal_matcher: an object with ``high_threshold``, ``low_threshold`` and ``allow_low_quality_matches``, such
            as torchvision's ``Matcher``; used instead of ``fg_iou_thresh`` and ``bg_iou_thresh``.
        score_thresh, nms_thresh, detections_per_img, topk_candidates: see ``ops.retinanet_detect``.
        fg_iou_thresh, bg_iou_thresh: ``high_threshold`` and ``low_threshold`` of ``ops.match_anchors``.
        alpha, gamma, smooth_l1_beta: see ``ops.retinanet_loss``.
        allow_low_quality_matches: of ``ops.match_anchors``.
        loss_function: used instead of ``ops.retinanet_loss`` and called as it is: with the head's levels, the anchors,
            boxes and labels, and the keywords ``gt_counts`` and ``model.loss_options``. Training returns its dict of
            losses. ``model.loss_function`` may also be set later; the weights of a module there are the model's.
        box_loss: the same. By default "l1", or what a regression head of torchvision's asks for.
        **transform_options: ``size_divisible`` and ``fixed_size`` of ``DetectionTransform``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        anchor_generator: nn.Module | None = None,
        head: nn.Module | None = None,
        proposal_matcher: Any = None,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 300,
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.4,
        topk_candidates: int = 1000,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        box_loss: str | None = None,
        smooth_l1_beta: float = 1 / 9,
        allow_low_quality_matches: bool = True,
        loss_function: Callable[..., dict[str, Tensor]] = ops.retinanet_loss,
        **transform_options: Any,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        generator: Any = anchor_generator or retinanet_anchor_generator()
        self.anchor_generator: nn.Module = generator
        self.head: nn.Module = head or RetinaNetHead(
            _out_channels(backbone), generator.num_anchors_per_location()[0], num_classes
        )
        check_parts(generator, self.head, box_loss)
        self.transform = DetectionTransform(
            min_size, max_size, image_mean or IMAGENET_MEAN, image_std or IMAGENET_STD, **transform_options
        )
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_img = detections_per_img
        self.topk_candidates = topk_candidates
        self.loss_options: dict[str, Any] = {
            "alpha": alpha,
            "gamma": gamma,
            "box_loss": box_loss or "l1",
            "smooth_l1_beta": smooth_l1_beta,
            "high_threshold": getattr(proposal_matcher, "high_threshold", fg_iou_thresh),
            "low_threshold": getattr(proposal_matcher, "low_threshold", bg_iou_thresh),
            "allow_low_quality_matches": getattr(
                proposal_matcher, "allow_low_quality_matches", allow_low_quality_matches
            ),
        }
        self.box_loss_of_head = box_loss is None
        self.loss_function = loss_function
        self.register_load_state_dict_pre_hook(rename_old_keys)

    def forward(
        self,
        images: Images,
        targets: Targets | None = None,
        sizes: BatchSizes | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if not self.training:
            return self.detect_batch(images, sizes).unpack()
        checked = check_targets(targets, images)
        batch, scaled = self.transform(images, checked, sizes)
        return self.compute_loss(scaled, *self._predict(batch))

    def detect_batch(self, images: Images, sizes: BatchSizes | None = None) -> Detections:
        """What evaluation returns, at fixed size: no shape in it depends on values, so it compiles and exports whole.

        ``model(images)`` of a model in evaluation is ``model.detect_batch(images).unpack()``.

        Args:
            images: as in a call of the model.
            sizes: the same.

        Returns:
            ``Detections`` in the pixels of the images, with D = ``detections_per_img``; no host round trip.
        """
        batch, _ = self.transform(images, None, sizes)
        detections = self.detect(*self._predict(batch), batch.image_sizes)
        original = images.sizes if isinstance(images, PackedImages) else sizes_of(images)
        return self.transform.postprocess(detections, batch.image_sizes, original)

    def network(self, images: Tensor) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
        """Backbone and head, which is all that has weights: the part to compile for training.

        Args:
            images: the padded batch ``[B, 3, H, W]``, normalised.

        Returns:
            The head's outputs, ``cls_logits`` and ``bbox_regression`` as lists of levels, and the backbone's levels.
        """
        features = _levels(self.backbone(images))
        return levels_of(self.head(features), features), features

    def _predict(self, batch: ImageBatch) -> tuple[dict[str, list[Tensor]], Tensor | AnchorGrid]:
        """The head's outputs and the anchors."""
        head_outputs, features = self.network(batch.tensors)
        return head_outputs, anchors_of(self.anchor_generator, batch, features)

    def compute_loss(
        self,
        targets: Targets,
        head_outputs: Mapping[str, Sequence[Tensor]],
        anchors: Tensor | AnchorGrid,
    ) -> dict[str, Tensor]:
        """The losses of the head's outputs by ``loss_function``; the usual one reads the levels where they lie."""
        boxes: Sequence[Tensor] | Tensor
        labels: Sequence[Tensor] | Tensor
        if isinstance(targets, Mapping):
            boxes, labels, counts = targets["boxes"], targets["labels"], targets.get("counts")
        else:
            boxes, labels = ([target[key] for target in targets] for key in ("boxes", "labels"))
            counts = None
        options = {**self.loss_options, **(box_loss_of(self.head) if self.box_loss_of_head else {})}
        return self.loss_function(
            head_outputs["cls_logits"],
            head_outputs["bbox_regression"],
            anchors,
            boxes,
            labels,
            gt_counts=counts,
            **options,
        )

    def detect(
        self,
        head_outputs: Mapping[str, Sequence[Tensor]],
        anchors: Tensor | AnchorGrid,
        image_sizes: Sequence[tuple[int, int]] | Tensor,
    ) -> Detections:
        """The detections of the head's outputs, in the pixels of the resized images; no host round trip."""
        return ops.retinanet_detect(
            head_outputs["cls_logits"],
            head_outputs["bbox_regression"],
            anchors,
            image_sizes,
            score_thresh=self.score_thresh,
            topk_candidates=self.topk_candidates,
            nms_thresh=self.nms_thresh,
            detections_per_img=self.detections_per_img,
        )


def _out_channels(backbone: nn.Module) -> int:
    channels = getattr(backbone, "out_channels", None)
    if not isinstance(channels, int):
        raise ValueError("RetinaNet: expected backbone.out_channels, the channels of its levels, found none")
    return channels


def _levels(features: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> list[Tensor]:
    if isinstance(features, Tensor):
        return [features]
    return list(features.values()) if isinstance(features, Mapping) else list(features)
