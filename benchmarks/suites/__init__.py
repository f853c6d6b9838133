"""Importing a suite registers its workloads; the order here is the order in which they run and are shown."""

from benchmarks.suites import focal, boxes, suppression, training, detection, overhead, evaluation  # noqa: F401, I001
from benchmarks.suites import accelerate, compile, growth  # noqa: F401
