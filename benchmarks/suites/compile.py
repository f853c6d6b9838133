"""Our ops inside torch.compile beside the same calls without it: a compiled step must not do the work twice."""

from __future__ import annotations

from benchmarks.suites.training import retinanet_loss
from benchmarks.workload import register

PROVIDERS = ("ours", "ours-compile", "eager")

register("compile/retinanet_loss/2x512", retinanet_loss, providers=PROVIDERS, images=2, image_size=512)
