"""How PyTorch's CPU threads wait for each other, chosen before PyTorch is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

# Any of these is a choice of the user's.
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# GNU's OpenMP spins this often, about 0.1 ms, before a thread sleeps: long enough to bridge two operations of a step,
# and short enough to leave the core to others. Its own default spins for milliseconds, which starves other programs;
# sleeping at once ("passive") costs up to 40% of a step of small operations.
SPINS = "10000"
# LLVM's and Intel's OpenMP: milliseconds before a thread sleeps.
MILLISECONDS = "1"


def choose_waiting(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Let waiting threads spin briefly and then sleep; returns False where the user or an earlier import has chosen."""
    if "torch" in sys.modules or any(name in environment for name in CHOICES):
        return False
    environment["GOMP_SPINCOUNT"] = SPINS
    environment["KMP_BLOCKTIME"] = MILLISECONDS
    return True
