"""
What torchtitan needs of torch on a CPU, before it is imported. Each shim says what it stands in for.

titan_cpu.py applies them; where the program is torchtitan's own command, the interpreter calls `await_torchtitan` as it
starts.
"""

from __future__ import annotations

import sys
import types
from importlib.abc import MetaPathFinder
from typing import Any


class _Memory:
    total_memory = 1 << 34


class _Absent(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *_, **__: None})


def apply() -> None:
    """Imports torch."""
    import torch
    import torch._utils
    from torch.distributed.fsdp import FSDPModule

    # torchtitan picks its device type when it is imported.
    torch._utils._get_available_device_type = lambda: "cpu"
    # Its metrics ask the device for its memory; torch.cpu has no such functions.
    for name, function in {
        "get_device_name": lambda *_: "cpu",
        "get_device_properties": lambda *_: _Memory,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda *_: None,
        "memory_stats": lambda *_: {},
        "memory_reserved": lambda *_: 0,
        "get_rng_state": torch.get_rng_state,
        "set_device": lambda *_: None,
    }.items():
        if not hasattr(torch.cpu, name):
            setattr(torch.cpu, name, function)
    # Triton kernels, imported whether they are used or not.
    for name in ("", ".api", ".kernels"):
        module = _Absent(f"torchtitan.distributed.minimal_async_ep{name}")
        module.__path__ = []
        sys.modules[module.__name__] = module
    divide = FSDPModule.set_gradient_divide_factor

    def divide_by_sum(self: FSDPModule, factor: float) -> None:
        self.set_force_sum_reduction_for_comms(True)  # gloo has no PREMUL_SUM
        divide(self, factor)

    FSDPModule.set_gradient_divide_factor = divide_by_sum


def await_torchtitan() -> None:
    """Apply them when torchtitan is about to be imported: torchrun and DataLoader workers come by here too."""

    class Finder(MetaPathFinder):
        is_done = False

        def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
            if fullname == "torchtitan" and not self.is_done:
                self.is_done = True
                apply()

    sys.meta_path.insert(0, Finder())
