"""``retinanet-fast train ...`` up to its first step: says so, and ends.

python -m benchmarks.data_scale.first_step train --data DIR --out RUN ...
"""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks.harness import status_bytes
from retinanet_fast import cli
from retinanet_fast.engine.reporting import hooks
from retinanet_fast.engine.training.hooks import Hook, StepReport
from retinanet_fast.engine.training.run import Run

DONE = "first step done"


class EndAfterFirstStep(Hook):
    def after_step(self, run: Run, report: StepReport) -> None:
        print(f"{DONE}: {report.losses}, peak {status_bytes('VmHWM') / 1e6:.0f} MB", flush=True)
        os._exit(0)


def main(arguments: list[str]) -> int:
    def with_ours(*given: Any, **named: Any) -> list[Hook]:
        return [*usual(*given, **named), EndAfterFirstStep()]

    usual = hooks.reporting_hooks
    hooks.reporting_hooks = with_ours
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
