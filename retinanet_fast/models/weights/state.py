"""Weights as they were read, whatever they were read from."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from retinanet_fast.models.weights.settings import Settings

__all__ = ["BBOX_REG", "BODY", "CLS_LOGITS", "Weights"]

BODY = "backbone.body."
CLS_LOGITS = "head.classification_head.cls_logits."
BBOX_REG = "head.regression_head.bbox_reg."


@dataclass(frozen=True)
class Weights:
    """Weights under today's names, in the layout of our model, not wrapped in anything.

    Attributes:
        source: what they were read from, for messages.
        settings: what they need of their model and no tensor shows.
        background: whether class 0 of the logits is the background, as in torchvision; elsewhere it is the first class.
        exact_anchors: whether they were trained with unrounded anchors at strides 8 to 128.
        notes: what else their user should know.
    """

    state: dict[str, Tensor]
    source: str = "the state dict"
    settings: Settings = field(default_factory=Settings)
    background: bool = True
    exact_anchors: bool = False
    notes: list[str] = field(default_factory=list)

    def num_classes(self) -> int:
        """The classes of the logits.

        Raises:
            ValueError: these are not the weights of a RetinaNet.
        """
        try:
            num_anchors = self.state[f"{BBOX_REG}bias"].numel() // 4
            return self.state[f"{CLS_LOGITS}bias"].numel() // num_anchors
        except (KeyError, ZeroDivisionError) as error:
            raise ValueError(
                f"{self.source}: expected the weights of a RetinaNet, found no {error} among them"
            ) from None
