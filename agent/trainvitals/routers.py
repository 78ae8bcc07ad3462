"""
Where a model routes: the token counters, balancing biases and experts' weights that belong together.

Found by what lies beside what, with the field's names only as a start (roles.py): a counter or bias of E elements or a
router's weight [E, width], and in the same module or below it weights [E, ..., ...] or a numbered list of E experts
with equal shapes. No module is asked for anything but its number of choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from trainvitals.roles import Role, role_of
from trainvitals.slots import SlotTable

MAX_EXPERTS = 1024
_CHOICES = (
    "top_k", "topk", "k", "num_experts_per_tok", "num_experts_per_token", "experts_per_token",
    "moe_router_topk",
)  # fmt: skip
"""What a router's number of choices is called: torchtitan, DeepSeek, Mixtral and Qwen, gpt-oss, Megatron-LM."""
_NUMBERED = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Router:
    """
    One mixture of experts, as indices into the slot table; -1: there is none.

    `stack`: weights of all experts in one tensor. `listed`: one weight of each expert, in their order, where they are
    modules of their own. `chosen`: experts a token.
    """

    experts: int
    chosen: int
    counter: int = -1
    bias: int = -1
    stack: int = -1
    listed: tuple[int, ...] = ()


def find_routers(slots: SlotTable) -> list[Router]:
    """All of them, in the model's order. Cost: 10 us a tensor; ask again only when there are other slots."""
    places = _Places(slots)
    found: dict[str, Router] = {}
    for role in (Role.EXPERT_COUNTER, Role.EXPERT_BIAS, Role.ROUTER):
        for index in places.of(role):
            home = _parent(slots.fqn(index))
            above = _parent(home)
            if home in found or (role is not Role.EXPERT_COUNTER and above in found):
                continue
            router = places.router(index, home, above)
            if router is not None:
                found[home if router.counter == index else above] = router
    return list(found.values())


class _Places:
    """The slots by role and by shape."""

    def __init__(self, slots: SlotTable) -> None:
        self._slots = slots
        self._shapes = [tuple(slots.layout(index).shape) for index in range(len(slots))]
        self._roles = [role_of(slots.fqn(index)) for index in range(len(slots))]
        self._under: dict[str, list[int]] = {}
        """Parameters of two dims and more, by the names of all modules that they are in."""
        for index, slot in enumerate(slots.slots):
            name = slots.fqn(index)
            if slot.place.kind == "param" and len(self._shapes[index]) >= 2:
                while name:
                    name = _parent(name)
                    self._under.setdefault(name, []).append(index)

    def of(self, *roles: Role) -> list[int]:
        """Indices of the tensors of these roles that may be a router's."""
        return [
            index
            for index, (role, shape) in enumerate(zip(self._roles, self._shapes, strict=True))
            if role in roles
            and len(shape) == (2 if role is Role.ROUTER else 1)
            and 2 <= shape[0] <= MAX_EXPERTS
        ]

    def router(self, index: int, home: str, above: str) -> Router | None:
        """The router that this tensor is of; None for a gate without experts."""
        experts = self._shapes[index][0]
        stack, listed = self._experts(experts, home, above)
        role = self._roles[index]
        if role is Role.ROUTER and stack < 0 and not listed:
            return None
        near = [
            each
            for each in self.of(Role.EXPERT_BIAS)
            if self._shapes[each][0] == experts and _is_near(self._slots.fqn(each), home, above)
        ]
        return Router(
            experts=experts,
            chosen=self._chosen(index, experts),
            counter=index if role is Role.EXPERT_COUNTER else -1,
            bias=near[0] if near else -1,
            stack=stack,
            listed=listed,
        )

    def _experts(self, experts: int, home: str, above: str) -> tuple[int, tuple[int, ...]]:
        """Weights of this many experts, under the module itself, else under the one that holds it."""
        for prefix in dict.fromkeys((home, above)):
            under = self._under.get(prefix, [])
            for index in under:
                shape = self._shapes[index]
                if len(shape) == 3 and shape[0] == experts and not self._convolves(index):
                    return index, ()
            listed = self._listed(experts, prefix, under)
            if listed:
                return -1, listed
        return -1, ()

    def _listed(self, experts: int, prefix: str, under: Iterable[int]) -> tuple[int, ...]:
        """The same weight of each expert in a list of them."""
        families: dict[tuple[str, str], dict[int, int]] = {}
        for index in under:
            name = self._slots.fqn(index)
            number = _NUMBERED.search(name, len(prefix))
            if number:
                family = (name[: number.start()], name[number.end() :])
                families.setdefault(family, {})[int(number[1])] = index
        for members in families.values():
            indices = [members[number] for number in sorted(members)]
            shapes = {self._shapes[index] for index in indices}
            if sorted(members) == list(range(experts)) and len(shapes) == 1:
                return tuple(indices)
        return ()

    def _convolves(self, index: int) -> bool:
        """A gated convolution has a gate, and three dims, too."""
        return isinstance(self._slots.slots[index].place.home(), _ConvNd)

    def _chosen(self, index: int, experts: int) -> int:
        home = self._slots.slots[index].place.home()
        for module in _around(home):
            for name in _CHOICES:
                value = getattr(module, "__dict__", {}).get(name)
                if type(value) is int and 1 <= value <= experts:
                    return value
        return 1


def _around(home: nn.Module | None) -> Iterator[object]:
    """The module itself, its parts, and its configuration."""
    if home is not None:
        yield home
        yield from home.children()
        yield getattr(home, "config", None)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _is_near(name: str, home: str, above: str) -> bool:
    """In the module, directly below it, or in the one that holds it."""
    parent = _parent(name)
    return parent in (home, above) or _parent(parent) == home
