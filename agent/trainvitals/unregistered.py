"""
Tensors that hang on a module without its knowledge: plain attributes, and what lies in its lists, tuples and dicts.

They are not in `parameters()` nor in `state_dict()`, and `.to()` does not move them. Found by a walk over the modules'
own attributes; nothing of the user's is called, and all is held weakly.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

MAX_PLACES = 256
MAX_ITEMS = 64
"""Of each container so many items are looked at; places beyond the first 256 are not."""
MAX_DEPTH = 3
MAX_SEARCHED = 50_000

_SEQUENCES = (list, tuple, deque)
_MAPPINGS = (dict, OrderedDict, defaultdict)
_OWN = frozenset(nn.Module().__dict__)

Path = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class UnregisteredPlace:
    """
    `path` leads from the attributes of the module `home()`, a weak reference, to the tensor. `fqn` is written as a
    user would: `blocks[0].weight`. `keeps_extra`: its module saves more than its tensors, by `get_extra_state`.
    """

    fqn: str
    home: Callable[[], nn.Module | None]
    path: Path
    keeps_extra: bool

    def now(self) -> torch.Tensor | None:
        """
        The tensor that is there now; under 1 us. Of what operations made of one parameter and keep alive, that parameter:
        `nn.Parameter(...).to(...)` is no parameter, and the one that gets the gradients hangs on its history alone.
        """
        home = self.home()
        found: Any = None if home is None else home.__dict__
        for key in self.path:
            if isinstance(found, dict):
                found = dict.get(found, key)
            elif type(found) in _SEQUENCES and key < len(found):
                found = found[key]
            else:
                return None
        if not isinstance(found, torch.Tensor):
            return None
        behind = None if found.grad_fn is None else _parameter_behind(found)
        return found if behind is None else behind


def _parameter_behind(tensor: torch.Tensor) -> nn.Parameter | None:
    """The one parameter that a tensor was made of, in a few operations that take nothing else."""
    made_by: Any = tensor.grad_fn
    for _ in range(MAX_DEPTH):
        inputs = [one for one, _ in made_by.next_functions if one is not None]
        if len(inputs) != 1:
            return None
        made_by = inputs[0]
        leaf = getattr(made_by, "variable", None)  # of an AccumulateGrad
        if leaf is not None:
            return leaf if isinstance(leaf, nn.Parameter) else None
    return None


def find_unregistered(models: Sequence[nn.Module]) -> list[UnregisteredPlace]:
    """
    Every such place of the models, in registration order; parameters of modules that are kept in plain containers are
    among them. Some us a module of the user's own classes; torch's own modules keep no state so.
    """
    modules = [item for model in models for item in model.named_modules()]
    known = {id(module) for _, module in modules}
    found: dict[tuple[int, Path], UnregisteredPlace] = {}
    for prefix, module in modules:
        if _is_torch(module) or "_reductions" in module.__dict__:
            continue  # torchmetrics keeps its counts so, on purpose
        for key, value in list(module.__dict__.items()):
            if key in _OWN or isinstance(value, (str, int, float)):
                continue
            name = f"{prefix}.{key}" if prefix else key
            for place in _places(value, name, module, (key,), known):
                found.setdefault((id(place.home()), place.path), place)
                if len(found) >= MAX_PLACES:
                    return list(found.values())
    return list(found.values())


def saved_in(handed: Any, places: Sequence[UnregisteredPlace]) -> list[str]:
    """
    The names of those places whose tensors are in what was handed to a save: by their key or their values, or because
    a module is saved as it is. Compares values of equal shapes only.
    """
    if not places:
        return []
    wanted = [(place, tensor) for place in places if (tensor := place.now()) is not None]
    saved: set[str] = set()
    waiting: list[Any] = [handed]
    searched = 0
    while waiting and searched < MAX_SEARCHED:
        thing = waiting.pop()
        searched += 1
        if isinstance(thing, nn.Module):
            return [place.fqn for place in places]
        if isinstance(thing, torch.Tensor):
            saved.update(place.fqn for place, tensor in wanted if _is_copy(thing, tensor))
        elif isinstance(thing, dict):
            for key, value in list(dict.items(thing)):
                saved.update(place.fqn for place in places if _names(key, place))
                waiting.append(value)
        elif type(thing) in _SEQUENCES:
            waiting += list(islice(thing, MAX_SEARCHED))
    return [place.fqn for place in places if place.keeps_extra or place.fqn in saved]


def _places(
    value: Any, name: str, module: nn.Module, path: Path, known: set[int]
) -> Iterator[UnregisteredPlace]:
    kind = type(value)
    if isinstance(value, torch.Tensor):
        yield UnregisteredPlace(name, weakref.ref(module), path, _keeps_extra(module))
    elif isinstance(value, nn.Module):
        yield from _parameters(value, name, known)
    elif len(path) > MAX_DEPTH:
        return
    elif kind in _SEQUENCES:
        for position, item in enumerate(islice(value, MAX_ITEMS)):
            yield from _places(item, f"{name}[{position}]", module, (*path, position), known)
    elif kind in _MAPPINGS:
        for key, item in islice(list(value.items()), MAX_ITEMS):
            if isinstance(key, (str, int)):
                yield from _places(item, f"{name}[{key!r}]", module, (*path, key), known)


def _parameters(hidden: nn.Module, name: str, known: set[int]) -> Iterator[UnregisteredPlace]:
    """The parameters of a module that no attached model has."""
    if id(hidden) in known:
        return
    for prefix, module in hidden.named_modules():
        if id(module) in known:
            continue
        for key, parameter in module._parameters.items():
            if parameter is not None:
                full = f"{name}.{prefix}.{key}" if prefix else f"{name}.{key}"
                path = ("_parameters", key)
                yield UnregisteredPlace(full, weakref.ref(module), path, _keeps_extra(module))


def _is_torch(module: nn.Module) -> bool:
    """Whether all its classes are torch's; fully_shard and parametrizations derive theirs from the user's."""
    return all(
        base.__module__.partition(".")[0] in ("torch", "builtins", "typing", "abc")
        for base in type(module).__mro__
    )


def _keeps_extra(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


def _names(key: Any, place: UnregisteredPlace) -> bool:
    """Whether a save's key is the place's own name, alone or with all that leads to it."""
    last = place.fqn.rpartition(".")[2]
    return isinstance(key, str) and (key in (last, place.fqn) or key.endswith(f".{place.fqn}"))


def _is_copy(handed: torch.Tensor, live: torch.Tensor) -> bool:
    if handed is live:
        return True
    if handed.shape != live.shape or handed.dtype != live.dtype or handed.layout != live.layout:
        return False
    return handed.device == live.device and bool(torch.equal(handed, live))
