"""
Being told of each `backward()`: what a trainer calls, be it by the tensor's method or torch's function.

Touches `torch.autograd.backward` while anybody listens: `Tensor.backward` calls it, and Dynamo never goes through it, for
a `backward()` in a compiled function breaks the graph or is rewritten to something else (then nobody is told).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch

from trainvitals.patches import SharedPatch
from trainvitals.untraced import keep_untraced, untraced


class Listener(Protocol):
    """Somebody who wants to know."""

    def called(self, roots: Any, gradients: Any) -> None:
        """
        As `backward(tensors, grad_tensors)` was called, on the caller's thread; must not raise.
        """


def _tell(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    roots = args[0] if args else kwargs.get("tensors")
    gradients = args[1] if len(args) > 1 else kwargs.get("grad_tensors")
    for listener in BACKWARDS.listeners:
        listener.called(roots, gradients)


_tell_untraced = untraced(_tell)
_LOCAL = threading.local()


def _around(original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if getattr(_LOCAL, "is_inside", False):
        return original(*args, **kwargs)
    # One call within another is part of it: a tensor's subclass passes itself on to the function, checkpoints recompute.
    _LOCAL.is_inside = True
    try:
        _tell_untraced(args, kwargs)
        return original(*args, **kwargs)
    finally:
        _LOCAL.is_inside = False


BACKWARDS: SharedPatch[Listener] = SharedPatch(
    torch.autograd, "backward", "torch.autograd.backward", keep_untraced(_around), opaque=True
)
"""The patch, which is there while it is held."""
