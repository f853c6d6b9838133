from __future__ import annotations

import resource
import time
from collections import defaultdict
from contextlib import contextmanager


class PhaseClock:
    def __init__(self, device):
        self.t = defaultdict(float)

    @contextmanager
    def __call__(self, name):
        s = time.perf_counter()
        try:
            yield
        finally:
            self.t[name] += time.perf_counter() - s

    def take(self):
        r = dict(self.t)
        self.t.clear()
        return r


def memory_bytes(device):
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
