"""The detector as a module of one tensor: what exporters take."""

from __future__ import annotations

from torch import Tensor, nn

from retinanet_fast.models.retinanet import RetinaNet
from retinanet_fast.structures import Detections

__all__ = ["BatchDetector"]


class BatchDetector(nn.Module):
    """``model.detect_batch`` of a batch of images of one size, as a module for ``torch.export``.

    ::

        batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
        program = torch.export.export(
            BatchDetector(model).eval(),
            (torch.rand(2, 3, 480, 640),),
            dynamic_shapes={"images": {0: batch, 2: height, 3: width}},
        )
        torch.export.save(program, "detector.pt2")
        detections = torch.export.load("detector.pt2").module()(images)

    Resizing, normalising, padding and the way back to the images' pixels are in the program. The ops are too, as calls:
    whoever runs the program imports ``retinanet_fast`` first. A program holds for every size that, resized and padded,
    has more than 128 pixels on both sides, as the example must: a level of one cell would be a program of its own, and
    the program refuses it ("Guard failed").

    Args:
        model: its thresholds and limits become constants of an exported program.
    """

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Detections:
        """The detections of ``images`` ``[B, 3, H, W]``, float in 0 to 1, in their pixels."""
        return self.model.detect_batch(images)
