"""One module's methods are replaced by giving it another class, and given back by giving it its own.

Nothing is written into the module itself, its ``__dict__`` and its state dict are those of before, and no other module
of its class is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from torch import nn

from retinanet_fast.acceleration.replacements import replacement_of

__all__ = ["AcceleratedModule", "original_class", "restore", "swap", "swapped_methods"]


class AcceleratedModule:
    """The first base of every class that a module is given here; its second base is the module's own class."""

    _retinanet_fast_methods: tuple[str, ...] = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The given class has no name to find it by: write the own one, and the methods that are to be replaced again.
        reduced: Any = super().__reduce_ex__(protocol)
        function, arguments, *rest = reduced
        given, own = type(self), original_class(type(self))
        own_arguments = tuple(own if argument is given else argument for argument in arguments)
        return _rebuild, (function, own_arguments, self._retinanet_fast_methods), *rest


def _rebuild(
    function: Callable[..., nn.Module], arguments: tuple[Any, ...], methods: Iterable[str]
) -> nn.Module:
    module = function(*arguments)
    # Methods that another torchvision, or the class as it is now, does not have as torchvision's own are left.
    swap(module, [name for name in methods if replacement_of(type(module), name) is not None])
    return module


def original_class(cls: type) -> type:
    """The class that a module had before ``swap``; any other class is returned itself."""
    given = next((base for base in cls.__mro__ if _is_given(base)), None)
    return cls if given is None else given.__bases__[1]


def _is_given(cls: type) -> bool:
    return cls.__bases__[:1] == (AcceleratedModule,)


def swapped_methods(module: nn.Module) -> tuple[str, ...]:
    """The names of the methods that ``swap`` has replaced."""
    return module._retinanet_fast_methods if isinstance(module, AcceleratedModule) else ()


def swap(module: nn.Module, methods: Iterable[str]) -> None:
    """Replace the methods, each of which must be torchvision's own."""
    names = tuple(sorted(methods))
    if names:
        cls: Any = type(module)
        module.__class__ = _subclass(cls, names)


def restore(module: nn.Module) -> None:
    """Give the module its own class again.

    Raises:
        RuntimeError: something else has given it a class since, made from the one that ``swap`` gave it.
    """
    cls = type(module)
    if _is_given(cls):
        module.__class__ = original_class(cls)
    elif isinstance(module, AcceleratedModule):
        raise RuntimeError(
            f"accelerate: expected the class that it gave to this {original_class(cls).__name__}, got {cls.__name__}, "
            "which something (fully_shard?) has made from it since; undo that first"
        )


@cache
def _subclass(cls: Any, names: tuple[str, ...]) -> Any:
    body: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "_retinanet_fast_methods": names,
    }
    for name in names:
        replacement = replacement_of(cls, name)
        if replacement is None:
            raise ValueError(f"accelerate: expected {cls.__name__}.{name} to be torchvision's own method")
        body[name] = replacement.function
    return type(cls)(cls.__name__, (AcceleratedModule, cls), body)
