"""
What was handed to a save or load: its tensors with their raw keys, and which attached tensor each of them is.

Nothing of the user's is called on the way: plain dicts, lists and modules are walked, everything else is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from trainvitals.dtypes import reading
from trainvitals.fqn import canonical_fqn
from trainvitals.layout import local_part
from trainvitals.places import find_places
from trainvitals.slot import is_shapeless, shape_of
from trainvitals.slots import SlotTable

MAX_DEPTH = 8
MAX_ITEMS = 500_000
"""Items of containers that are looked at in one call; what lies beyond is not in the manifest."""
_LONG_LIST = 10_000  # a list of losses, not of tensors

# Where a trainer keeps what is no model's state. Some of it has the names and shapes of parameters.
_NOT_MODEL = (
    "optim",
    "opt",
    "scheduler",
    "lr_scheduler",
    "scaler",
    "grad_scaler",
    "exp_avg",
    "momentum",
    "rng",
)
# What a checkpoint puts in front of a model's own names without nesting a dict.
_PREFIXES = ("model.", "module.", "state_dict.", "model_state_dict.", "network.", "net.")
# state_dict() leaves these out of its names by hooks; the module tree has them.
_HIDDEN_IN_STATE_DICT = ("_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


# What torch's optimizers call their moments.
_MOMENTS = frozenset(
    {"exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg", "max_exp_avg_sq", "exp_inf"}
)
_MAX_SEARCHED = 50_000


class Entry(NamedTuple):
    """One tensor as handed over; `path` are the keys from the outermost container inwards."""

    path: tuple[str, ...]
    tensor: torch.Tensor

    @property
    def key(self) -> str:
        """The raw key: the path with dots, as DCP flattens it."""
        return ".".join(self.path)


def entries_of(handed: Any) -> list[Entry]:
    """
    The tensors in nested dicts, lists and modules, but for optimizers' and the like; none for a tensor by itself.

    Cost: under 1 us an item.
    """
    if isinstance(handed, torch.Tensor):
        return []
    budget = [MAX_ITEMS]
    return list(_walk(handed, (), budget))


def _walk(thing: Any, path: tuple[str, ...], budget: list[int]) -> Iterator[Entry]:
    budget[0] -= 1
    if isinstance(thing, torch.Tensor):
        yield Entry(path, thing)
        return
    if len(path) >= MAX_DEPTH or budget[0] < 0:
        return
    for key, value in _items(thing):
        if not _is_other_state(key, value):
            yield from _walk(value, (*path, key), budget)


def _items(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, dict):
        # Not the object's own items(): a subclass may read files there.
        yield from ((str(key), value) for key, value in list(dict.items(thing)))
    elif isinstance(thing, nn.Module):
        yield from named_tensors(thing)
    elif isinstance(thing, (list, tuple)) and len(thing) <= _LONG_LIST:
        yield from ((str(position), value) for position, value in enumerate(thing))


def _is_other_state(key: str, value: Any) -> bool:
    first = key.partition(".")[0].lower()
    if isinstance(value, torch.Tensor):
        # In a flat dict a model's own attribute may be called "opt" or "momentum".
        return first in ("optim", "optimizer", "optimizers")
    return first in _NOT_MODEL or first.startswith("optimizer")


def has_optimizer_state(handed: Any) -> bool:
    """Whether moments of an optimizer are in it: in its dicts, nested or flat, or an optimizer that has some."""
    waiting = [handed]
    searched = 0
    while waiting and searched < _MAX_SEARCHED:
        thing = waiting.pop()
        if isinstance(thing, Optimizer):
            if any(_MOMENTS & state.keys() for state in thing.state.values()):
                return True
        elif isinstance(thing, dict):
            for key, value in list(dict.items(thing)):
                searched += 1
                if isinstance(value, torch.Tensor):
                    if isinstance(key, str) and key.rpartition(".")[2] in _MOMENTS:
                        return True
                elif isinstance(value, (dict, list, tuple, Optimizer)):
                    waiting.append(value)
        elif isinstance(thing, (list, tuple)) and len(thing) <= _LONG_LIST:
            searched += len(thing)
            waiting += [each for each in thing if isinstance(each, (dict, Optimizer))]
    return False


def state_dict_entries(handed: Any) -> list[Entry]:
    """The tensors of a flat state dict, as load_state_dict gets it; none of a mapping that is no dict."""
    items = dict.items(handed) if isinstance(handed, dict) else ()
    return [Entry((str(key),), value) for key, value in items if isinstance(value, torch.Tensor)]


def named_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """A module's parameters and buffers by raw name, tied ones under each name; without state_dict's hooks."""
    for place in find_places([module]):
        yield place.raw_fqn, place.owner[place.key]


@lru_cache(maxsize=65536)
def canonical(key: str) -> str:
    """`canonical_fqn`, remembered: the same keys are saved again and again."""
    return canonical_fqn(key)


def state_name(raw_fqn: str) -> str:
    """The name that `state_dict()` gives to the tensor of this raw name."""
    for hidden in _HIDDEN_IN_STATE_DICT:
        raw_fqn = raw_fqn.replace(hidden, "")
    return raw_fqn


def candidate_names(path: Sequence[str]) -> list[str]:
    """Canonical names that an entry may stand for: outer containers and common prefixes taken off, one at a time."""
    names = []
    for depth in range(len(path)):
        name = ".".join(path[depth:])
        names.append(canonical(name))
        while name.startswith(_PREFIXES):
            name = name.partition(".")[2]
            names.append(canonical(name))
    return list(dict.fromkeys(names))


Storage = tuple[str, int, tuple[int, ...]]
_NOWHERE: Storage = ("", 0, ())


def storage_of(tensor: torch.Tensor) -> Storage | None:
    """Where a rank's part lies, and its shape; None where that can't be said."""
    if is_shapeless(tensor):
        return None
    part = local_part(tensor)
    if reading(part) is None or not part.numel():
        return None
    return str(part.device), part.data_ptr(), tuple(part.shape)


class LiveIndex:
    """The attached tensors as they are now, by name and by storage; made anew in each call (some us a tensor)."""

    def __init__(self, slots: SlotTable) -> None:
        self._slots = slots
        self._by_name: dict[str, list[int]] = {}
        self._by_storage: dict[Storage, list[int]] = {}
        for index in range(len(slots)):
            tensor = slots.tensor(index)
            if tensor is None:
                continue
            for name in {slots.fqn(index), canonical(slots.raw_fqn(index))}:
                self._by_name.setdefault(name, []).append(index)
            storage = storage_of(tensor)
            if storage is not None:
                self._by_storage.setdefault(storage, []).append(index)

    def match(self, entries: Sequence[Entry]) -> list[int]:
        """
        Per entry the index of its attached tensor, -1 if it is none.

        By storage and name; else by name, if at least half of its container's tensors have names and shapes of ours
        (another model's dict may share a few); else by storage alone (peft leaves the adapter's name out).
        """
        named: list[list[int]] = []
        stored: list[list[int]] = []
        fits: dict[tuple[str, ...], list[int]] = {}
        for entry in entries:
            by_name = self._named(entry)
            by_storage = self._by_storage.get(storage_of(entry.tensor) or _NOWHERE, [])
            named.append(by_name)
            stored.append(by_storage)
            counts = fits.setdefault(entry.path[:-1], [0, 0])
            counts[0] += 1
            counts[1] += bool(by_name or by_storage)
        return [
            self._choose(by_name, by_storage, counts)
            for by_name, by_storage, counts in zip(
                named, stored, (fits[entry.path[:-1]] for entry in entries), strict=True
            )
        ]

    def holds_storage_of(self, entries: Sequence[Entry]) -> bool:
        """Whether any of these tensors lies where an attached one does."""
        return any(storage_of(entry.tensor) in self._by_storage for entry in entries)

    def at(self, storage: Storage | None) -> int:
        """The first slot that lies there; -1 if none does."""
        return next(iter(self._by_storage.get(storage or _NOWHERE, [])), -1)

    def _named(self, entry: Entry) -> list[int]:
        for name in candidate_names(entry.path):
            found = [i for i in self._by_name.get(name, ()) if self._fits(entry.tensor, i)]
            if found:
                return found
        return []

    def _fits(self, tensor: torch.Tensor, index: int) -> bool:
        layout = self._slots.layout(index)
        return shape_of(tensor) in (layout.shape, layout.sizes)

    def _choose(self, named: list[int], stored: list[int], counts: list[int]) -> int:
        both = [index for index in named if index in stored]
        if both:
            return both[0]
        if len(named) == 1 and not stored and 2 * counts[1] >= counts[0]:
            return named[0]
        return stored[0] if stored else -1
