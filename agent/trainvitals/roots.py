"""
Which models does this process train: found in the interpreter's own list of objects, for scripts that nobody edits.

A **root** is a module that is inside no other one. Wrappers (DDP, torch.compile's OptimizedModule, FSDP1, an AC
wrapper) contain what they wrap, so they are the roots; FSDP2 changes a module's class in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainvitals.alive import alive
from trainvitals.steppers import plain_optimizers


def live_optimizers() -> list[Optimizer]:
    """Every optimizer that is alive, containers too. Cost: one pass over the interpreter's objects (about 0.1 s)."""
    return alive(Optimizer)


def outermost(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """
    Those that torch's hooks will speak of, without those whose steps are part of another's, each once.

    A container's or Lookahead's own step is hooked, accelerate's wrapper's is not: there the inner optimizer counts.
    """
    hooked = [each for each in optimizers if getattr(type(each).step, "hooked", False)]
    inner = {id(leaf) for each in hooked for leaf in plain_optimizers(each) if leaf is not each}
    distinct = {id(each): each for each in hooked if id(each) not in inner}
    return list(distinct.values())


def roots_of(optimizers: Iterable[Optimizer]) -> list[nn.Module]:
    """
    The root modules that own parameters of the optimizers; those that add none to a larger one are left out.

    Two roots may hold the same parameters: an actor and a critic over one trunk (both stay), or a wrapper that was
    made twice (one stays).
    """
    held = {id(parameter) for parameter in parameters_of(optimizers)}
    # One whose __init__ has not run (yet) has no modules to ask for.
    modules = [each for each in alive(nn.Module) if "_modules" in vars(each)]
    inner = {id(child) for module in modules for child in module._modules.values()}
    owned = [(module, held & _ids_of(module)) for module in modules if id(module) not in inner]
    owned = [(module, ids) for module, ids in owned if ids]
    kept: set[int] = set()
    covered: set[int] = set()
    for module, ids in sorted(owned, key=lambda pair: len(pair[1]), reverse=True):
        if not ids <= covered:
            kept.add(id(module))
            covered |= ids
    return [module for module, _ in owned if id(module) in kept]


def parameters_of(optimizers: Iterable[Optimizer]) -> list[Any]:
    """What the optimizers hold."""
    return [
        parameter
        for optimizer in optimizers
        for plain in plain_optimizers(optimizer)
        for group in getattr(plain, "param_groups", ())
        for parameter in group["params"]
    ]


def owned_by(roots: Sequence[nn.Module], optimizer: Optimizer) -> bool:
    """Whether any of the optimizer's parameters is in one of the models."""
    ids = {each for root in roots for each in _ids_of(root)}
    return any(id(parameter) in ids for parameter in parameters_of([optimizer]))


def _ids_of(module: nn.Module) -> set[int]:
    """Its parameters, and the fp32 master weights that stand for them in an optimizer (Megatron-LM's `main_param`)."""
    ids = set()
    for parameter in module.parameters():
        ids.add(id(parameter))
        master = getattr(parameter, "main_param", None)
        if master is not None:
            ids.add(id(master))
    return ids
