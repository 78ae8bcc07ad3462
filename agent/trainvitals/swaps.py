"""
Stepping aside for `torch.utils.swap_tensors`, which refuses tensors that anybody has a weak reference to: slots have.

nn.Module swaps where it can't set .data: `model.to()` with DTensors (FSDP2, tensor parallel) and other subclasses, and
every conversion and load under `torch.__future__.set_swap_module_params_on_conversion`. It would raise because of us.

Touches `torch.utils.swap_tensors` while any agent is attached; its callers look it up there at each call.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch.utils

from trainvitals.patches import Patch
from trainvitals.slot import Slot, SlotReference


class Swaps:
    """The patch, for the whole process: the first `hold` puts it up, the last `release` takes it away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._patch: Patch | None = None

    def hold(self) -> None:
        """One more agent is attached."""
        with self._lock:
            self._holders += 1
            if self._patch is None:
                self._patch = Patch(
                    torch.utils, "swap_tensors", "torch.utils.swap_tensors", _step_aside
                )

    def release(self) -> None:
        """One less."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0 and self._patch is not None:
                self._patch.restore()
                self._patch = None

    def touched(self) -> list[str]:
        """What is replaced now."""
        return [self._patch.label] if self._patch is not None else []


def _step_aside(original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The swap, with no slot referring to either tensor meanwhile. Both stay the objects that they are."""
    waiting: list[tuple[Slot, Any]] = [
        (reference.slot, tensor)
        for tensor in (*args, *kwargs.values())
        for reference in weakref.getweakrefs(tensor)
        if isinstance(reference, SlotReference)
    ]
    for slot, _ in waiting:
        slot.let_go()
    try:
        return original(*args, **kwargs)
    finally:
        for slot, tensor in waiting:
            slot.refer_to(tensor)


SWAPS = Swaps()
