"""How time grows with size: the last part of a name is the size, and the chart draws one line per family."""

from __future__ import annotations

from benchmarks.suites.suppression import nms
from benchmarks.suites.training import match_anchors, retinanet_loss
from benchmarks.workload import register

PEERS = ("ours", "torchvision")
for images in (1, 2, 4, 8, 16, 32):
    register(
        f"growth/retinanet_loss/images/{images}",
        retinanet_loss,
        providers=PEERS,
        images=images,
        image_size=512,
    )
for boxes in (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000):
    providers = PEERS if boxes <= 20_000 else ("ours",)  # torchvision's time is quadratic: minutes per call
    register(f"growth/nms/boxes/{boxes}", nms, providers=providers, boxes=boxes, checked=boxes <= 5_000)
for boxes in (1, 10, 100, 1_000):
    register(f"growth/match_anchors/boxes/{boxes}", match_anchors, providers=PEERS, boxes=boxes)
