"""Worker processes that load images: they leave signals to the main process, and end when it does."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from retinanet_fast.engine.files import ctrl_c_held

# Seconds after which a worker notices that the main process is gone.
POLL = 1.0
# What a worker does not receive. SIGTERM is also how the main process ends a worker that hangs, so it can be held only
# where its sender can be told (not on macOS).
HELD = {signal.SIGINT, signal.SIGTERM} if hasattr(signal, "sigtimedwait") else {signal.SIGINT}


@contextmanager
def starting_workers() -> Iterator[None]:
    """Start a loader's workers in this block. Ctrl-C and SIGTERM wait until its end, and never reach the workers.

    Both signals often go to the whole group of processes; what follows is the main process's to decide. And where a
    worker is killed, that is an error of the next batch that is asked for, not, as torch's handler makes it, of
    whatever the main process does at the moment.

    Forked workers leave the objects of this process out of their garbage collections, which would write to each of
    them, and so copy most of its memory.
    """
    if os.name == "posix" and multiprocessing.get_start_method() != "fork":
        # Where it is to start in the block, it lets the signals through again.
        multiprocessing.resource_tracker.ensure_running()
    child_handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    try:
        with _signals_held(), _objects_frozen():
            yield
    finally:
        if child_handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, child_handler)


@contextmanager
def _objects_frozen() -> Iterator[None]:
    if gc.get_freeze_count() > 0:  # the program that uses the package does so itself
        yield
        return
    gc.collect()  # what is garbage now would stay in the workers
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _signals_held() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        with ctrl_c_held():
            yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(_: int) -> None:
    """What a loader's worker does first (its ``worker_init_fn``)."""
    torch.set_num_threads(1)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, HELD)  # a fork has it already
    threading.Thread(target=_end_with_main, args=(os.getppid(),), daemon=True).start()


def _end_with_main(parent: int) -> None:
    """End this process when the main process is gone, which a killed one has no time to tell; or when it sends SIGTERM,
    which the worker blocks."""
    main = multiprocessing.parent_process()
    assert main is not None
    # A forked worker's parent is the main process; else its parent may be a server, which lives as long as the worker.
    while os.getppid() == parent and main.is_alive():
        if hasattr(signal, "sigtimedwait"):
            received = signal.sigtimedwait({signal.SIGTERM}, POLL)
            if received is not None and received.si_pid == main.pid:
                os._exit(0)
        else:
            time.sleep(POLL)
    os._exit(1)
