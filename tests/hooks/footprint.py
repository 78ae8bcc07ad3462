"""
What of a process, of a model and of its optimizers others may have replaced or hooked: compared before and after.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_module

Footprint = dict[str, object]
"""Where -> what is there, by identity."""

_MODULE_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_OWNERS: tuple[Any, ...] = (
    torch,
    torch.Tensor,
    torch.utils,
    torch.autograd,
    torch.serialization,
    torch.amp.GradScaler,
    optimizer_module,
    torch.nn.modules.module,
    nn.Module,
    nn.Parameter,
    Optimizer,
    sys,
)
_PUBLIC = {"torch.amp.grad_scaler": "torch.amp"}
_LATER = ("safetensors.torch", "torch.distributed.checkpoint.state_dict_saver",
          "torch.distributed.checkpoint.state_dict_loader", "torch.distributed.checkpoint.state_dict")  # fmt: skip


def footprint(model: nn.Module, optimizers: Sequence[Optimizer]) -> Footprint:
    """All of it now. Names are those that `agent.touched()` has, where it has one."""
    return {
        **process_footprint(_owners()),
        **dict(_of_model(model)),
        **dict(_of_optimizers(optimizers)),
    }


def process_footprint(owners: Sequence[Any]) -> Footprint:
    """Attributes of modules and classes, torch's global hooks, import hooks and signals."""
    found: Footprint = {
        f"{_name(owner)}.{name}": id(value)
        for owner in owners
        for name, value in list(vars(owner).items())
        if callable(value) or isinstance(value, (property, classmethod, staticmethod))
    }
    for when, hooks in (
        ("pre", optimizer_module._global_optimizer_pre_hooks),
        ("post", optimizer_module._global_optimizer_post_hooks),
    ):
        found[f"torch.optim.optimizer: step {when}-hook"] = tuple(hooks)
    for name, value in vars(torch.nn.modules.module).items():
        if name.startswith("_global_") and isinstance(value, dict):
            found[f"torch.nn.modules.module: {name}"] = tuple(value)
    found["sys.meta_path"] = tuple(map(id, sys.meta_path))
    found["signal: SIGTERM handler"] = signal.getsignal(signal.SIGTERM)
    return found


def everything_loaded() -> list[Any]:
    """Every module of torch's and safetensors', and every class in it."""
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in ("torch", "safetensors") and type(module) is ModuleType
    ]
    classes = {
        id(value): value
        for module in modules
        for value in list(vars(module).values())
        if isinstance(value, type) and value.__module__.startswith(("torch", "safetensors"))
    }
    return [*modules, *classes.values(), sys]


def changed(before: Footprint, after: Footprint) -> set[str]:
    """Places that are in both, and hold something else; what is imported in between is none."""
    return {where for where in before.keys() & after.keys() if before[where] != after[where]}


def _owners() -> list[Any]:
    return [*_OWNERS, *(sys.modules[name] for name in _LATER if name in sys.modules)]


def _name(owner: Any) -> str:
    if isinstance(owner, ModuleType):
        return owner.__name__
    return f"{_PUBLIC.get(owner.__module__, owner.__module__)}.{owner.__qualname__}"


def _of_model(model: nn.Module) -> Iterator[tuple[str, object]]:
    for name, module in model.named_modules():
        for kind in _MODULE_HOOKS:
            where = f"module {name}: {kind}"
            if kind == "_forward_hooks":
                where = f"module {name}: forward hook"
            if not name and kind == "_forward_pre_hooks":
                where = f"{type(module).__name__}: forward pre-hook"
            yield where, tuple(getattr(module, kind, ()))
        own = {key: id(value) for key, value in vars(module).items() if callable(value)}
        yield f"module {name}: attributes", (type(module), tuple(sorted(own.items())))
    for name, tensor in model.named_parameters():
        hooks = (tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None))
        yield f"parameter {name}: hooks", tuple(tuple(each or ()) for each in hooks)


def _of_optimizers(optimizers: Sequence[Optimizer]) -> Iterator[tuple[str, object]]:
    for number, optimizer in enumerate(optimizers):
        hooks = {key: tuple(value) for key, value in vars(optimizer).items() if "hooks" in key}
        own = {key: id(value) for key, value in vars(optimizer).items() if callable(value)}
        yield f"optimizer {number}", (tuple(hooks.items()), tuple(sorted(own.items())))
