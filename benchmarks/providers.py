"""The providers: each is a namespace of functions with the names and signatures of `retinanet_fast.ops`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.workload import Call, Case


class Unavailable(Exception):
    """This provider cannot run here; the message is one line that says why."""


@dataclass(frozen=True)
class Provider:
    name: str
    module: str
    compiled: bool = False
    summary: str = ""

    def load(self) -> Any:
        try:
            return importlib.import_module(self.module)
        except (ImportError, AttributeError, RuntimeError) as error:  # the last two: built before an op came
            raise Unavailable(f"{self.name}: {one_line(error)}") from error

    def bind(self, case: Case) -> Call:
        """The call that is timed. The module's `prepare_<op>`, if it has one, runs once, outside the timing."""
        namespace = self.load()
        if self.name in case.calls:
            return case.calls[self.name]
        function = getattr(namespace, case.op, None)
        if function is None:
            raise Unavailable(f"{self.name}: has no {case.op}")
        if self.compiled:
            torch.compiler.reset()  # each case gets its own static-shape graph, as a user with one shape has
            function = torch.compile(function, dynamic=False)
        prepare = getattr(namespace, f"prepare_{case.op}", None)
        args, kwargs = prepare(*case.args, **case.kwargs) if prepare else (case.args, case.kwargs)
        return case.forward_backward(partial(function, *args, **kwargs))


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("ours", "retinanet_fast.ops", summary="the compiled ops"),
        Provider("eager", "retinanet_fast.reference", summary="the eager twins"),
        Provider("compile", "retinanet_fast.reference", True, "the eager twins under torch.compile"),
        Provider("ours-compile", "retinanet_fast.ops", True, "the compiled ops inside torch.compile"),
        Provider("torchvision", "benchmarks.torchvision_ops", summary="torchvision's own code"),
        Provider(
            "torchvision-compile", "benchmarks.torchvision_ops", True, "torchvision under torch.compile"
        ),
    )
}


def one_line(error: BaseException) -> str:
    """The first line of an error, with the name of its type where that says more."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
