"""
Which tensors DistributedDataParallel keeps equal on several ranks, and on which: what makes a plain tensor a replica.

Asked of the wrappers themselves: those among the attached models, and those that were made around one of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainvitals.alive import alive
from trainvitals.places import Place

Wrapper = DistributedDataParallel


class Replicas:
    """
    The DDP wrappers of some models, held weakly, and the modules inside them.

    A wrapper that averages over fewer ranks by a hook (post-local SGD) keeps nothing equal, and is none. Cost of `find`:
    1 us a module, and one pass over the interpreter's objects (about 0.1 s) where there are several ranks.

    `declared`: what the trainer says of tensors that no wrapper has, as `attach(replicas=)` does.
    """

    def __init__(self, declared: Callable[[torch.Tensor], Iterable[int]] | None = None) -> None:
        self._declared = declared
        self._wrappers: list[weakref.ref[Wrapper]] = []
        self._ranks: dict[int, tuple[int, ...]] = {}
        self._ignored: dict[int, frozenset[str]] = {}

    @property
    def wrappers(self) -> list[Wrapper]:
        """Those that are still there."""
        return [wrapper for each in self._wrappers if (wrapper := each()) is not None]

    def find(self, models: Sequence[nn.Module]) -> None:
        """Ask the wrappers anew."""
        found = list(_wrappers(models))
        self._wrappers = [weakref.ref(wrapper) for wrapper in found]
        self._ranks, self._ignored = {}, {}
        for wrapper in found:
            ranks = group_of(wrapper)
            if not ranks:
                continue
            ignored = frozenset(wrapper.parameters_to_ignore)
            for prefix, module in wrapper.module.named_modules():
                names = {prefix + "." + key if prefix else key: key for key in _keys(module)}
                self._ranks[id(module)] = ranks
                self._ignored[id(module)] = frozenset(names[name] for name in ignored & set(names))

    def ranks_of(self, place: Place, tensor: torch.Tensor) -> tuple[int, ...]:
        """The ranks that hold equal copies of the tensor there; none: nobody says so."""
        home = place.home()
        ranks = () if home is None else self._ranks.get(id(home), ())
        if not ranks and self._declared is not None:
            told = tuple(sorted(map(int, self._declared(tensor) or ())))
            return told if len(told) > 1 else ()
        return () if ranks and place.key in self._ignored[id(home)] else ranks


def group_of(wrapper: Wrapper) -> tuple[int, ...]:
    """The ranks among which a wrapper keeps replicas equal; none if it does not, or there is no group any more."""
    if any("post_localSGD" in getattr(hook, "__qualname__", "") for hook, _ in _hooks(wrapper)):
        return ()
    try:
        return tuple(dist.get_process_group_ranks(wrapper.process_group))
    except (RuntimeError, ValueError, KeyError):
        return ()


def _wrappers(models: Sequence[nn.Module]) -> Iterator[Wrapper]:
    """Wrappers in the models, and around the models or parts of them."""
    parts = {id(module): module for model in models for module in model.modules()}
    inside = [module for module in parts.values() if isinstance(module, Wrapper)]
    yield from inside
    if not inside:
        for wrapper in _live():
            if id(wrapper.module) in parts:
                yield wrapper


def _live() -> Iterable[Wrapper]:
    # One whose __init__ has not run (yet) has no modules to ask for.
    return [each for each in alive(Wrapper) if "module" in vars(each).get("_modules", ())]


def _keys(module: nn.Module) -> list[str]:
    return [*module._parameters, *module._buffers]


def _hooks(wrapper: Wrapper) -> list[tuple[Any, Any]]:
    return list(getattr(wrapper, "_comm_hooks", ()))
