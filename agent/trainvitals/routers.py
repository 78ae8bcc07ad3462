"""
Where a model routes: the token counters, balancing biases and experts' weights that belong together.

Found by what lies beside what: a counter or bias of E elements or a router's weight [E, width], and in the same module
or below it weights [E, ..., ...] or a numbered list of E experts with equal shapes. The field's names (roles.py) are a
start; a weight of any other name is a router's if experts of its width lie beside it, and a module there says how many
of them a token gets (ten layers and a head of ten classes look the same otherwise). No module is asked for anything
but that number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from trainvitals.roles import Role, role_of
from trainvitals.slots import SlotTable
from trainvitals.tree import Tree, shared_way

MAX_EXPERTS = 1024
_CHOICES = (
    "top_k", "topk", "k", "num_experts_per_tok", "num_experts_per_token", "experts_per_token",
    "moe_router_topk", "moe_top_k",
)  # fmt: skip
"""What a router's number of choices is called: torchtitan, DeepSeek, Mixtral and Qwen, gpt-oss, Megatron-LM, DBRX."""
_NUMBERED = re.compile(r"\.(\d+)\.")
_WEIGHTS = (Role.ROUTER, Role.OTHER)


@dataclass(frozen=True)
class Router:
    """
    One mixture of experts, as indices into the slot table; -1: there is none.

    `stack`: weights of all experts in one tensor. `listed`: one weight of each expert, in their order, where they are
    modules of their own. `weight`: the router's. `chosen`: experts a token, 0 if nobody says.
    """

    experts: int
    chosen: int
    counter: int = -1
    bias: int = -1
    weight: int = -1
    stack: int = -1
    listed: tuple[int, ...] = ()


def find_routers(slots: SlotTable) -> list[Router]:
    """All of them, in the model's order. Cost: 10 us a tensor; ask again only when there are other slots."""
    places = _Places(slots)
    found: dict[str, Router] = {}
    for role in (Role.EXPERT_COUNTER, Role.EXPERT_BIAS, Role.ROUTER, Role.OTHER):
        for index in places.of(role):
            router = places.router(index)
            if router is not None:
                found.setdefault(*router)
    return list(found.values())


def routing_module(router: Router, slots: SlotTable, tree: Tree) -> nn.Module | None:
    """
    The module whose output is the routing: of those that hold the router's weight the outermost one that does not hold
    the experts, too. None where the weight is the mixture's own, or nowhere.
    """
    experts = router.stack if router.stack >= 0 else next(iter(router.listed), -1)
    if router.weight < 0 or experts < 0:
        return None
    way, other = (
        tree.way_to(slots.slots[index].place.home()) for index in (router.weight, experts)
    )
    together = shared_way(way, other)
    return way[len(together)] if together and len(way) > len(together) else None


class _Places:
    """The slots by role and by shape."""

    def __init__(self, slots: SlotTable) -> None:
        self._slots = slots
        self._tree = Tree(slots.models)
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
        self._of: dict[Role, list[int]] = {}
        for index, (role, shape) in enumerate(zip(self._roles, self._shapes, strict=True)):
            if len(shape) == (2 if role in _WEIGHTS else 1) and 2 <= shape[0] <= MAX_EXPERTS:
                self._of.setdefault(role, []).append(index)
        self._known: dict[tuple[int, str], tuple[int, tuple[int, ...]]] = {}

    def of(self, role: Role) -> list[int]:
        """Indices of the tensors of this role that may be a router's."""
        return self._of.get(role, [])

    def router(self, index: int) -> tuple[str, Router] | None:
        """The mixture of experts that this tensor is of, by name, and its router; None for a gate without experts."""
        home = _parent(self._slots.fqn(index))
        above = _parent(home)
        role, experts, chosen = self._roles[index], self._shapes[index][0], self._chosen(index)
        mixture, stack, listed = self._experts(experts, home, above)
        if role in _WEIGHTS and mixture is None and chosen:
            mixture, stack, listed = self._experts(experts, _parent(above))
        if role in _WEIGHTS and mixture is None:
            return None
        is_plain = role is not Role.OTHER and mixture in (None, home, above)
        if not is_plain and not (chosen and self._is_beside(index, stack, listed)):
            return None
        router = Router(
            experts=experts,
            chosen=chosen,
            counter=index if role is Role.EXPERT_COUNTER else -1,
            bias=self._near(Role.EXPERT_BIAS, experts, home, above),
            weight=index if role in _WEIGHTS else self._near(Role.ROUTER, experts, home, above),
            stack=stack,
            listed=listed,
        )
        if mixture is None:
            mixture = home if role is Role.EXPERT_COUNTER else above
        return mixture, router

    def _near(self, role: Role, experts: int, home: str, above: str) -> int:
        near = (
            each
            for each in self.of(role)
            if self._shapes[each][0] == experts and _is_near(self._slots.fqn(each), home, above)
        )
        return next(near, -1)

    def _is_beside(self, index: int, stack: int, listed: tuple[int, ...]) -> bool:
        """Whether experts are as wide as this weight, and not in one module with it."""
        weights = (stack,) if stack >= 0 else listed
        home = _parent(self._slots.fqn(index))
        inside = any(_parent(self._slots.fqn(each)) == home for each in weights)
        return not inside and self._shapes[index][-1] in self._shapes[weights[0]][-2:]

    def _experts(self, experts: int, *prefixes: str) -> tuple[str | None, int, tuple[int, ...]]:
        """Weights of this many experts, under the first of these modules that has any, and its name; None: none."""
        for prefix in dict.fromkeys(prefixes):
            # Thousands of layers lie under one name, and each of their weights asks for it.
            key = experts, prefix
            if key not in self._known:
                self._known[key] = self._experts_under(experts, prefix)
            stack, listed = self._known[key]
            if stack >= 0 or listed:
                return prefix, stack, listed
        return None, -1, ()

    def _experts_under(self, experts: int, prefix: str) -> tuple[int, tuple[int, ...]]:
        under = self._under.get(prefix, [])
        for index in under:
            shape = self._shapes[index]
            if len(shape) == 3 and shape[0] == experts and not self._convolves(index):
                return index, ()
        return -1, self._listed(experts, prefix, under)

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

    def _chosen(self, index: int) -> int:
        experts = self._shapes[index][0]
        for module in _around(self._tree.way_to(self._slots.slots[index].place.home())):
            for name in _CHOICES:
                value = getattr(module, "__dict__", {}).get(name)
                if type(value) is int and 1 <= value <= experts:
                    return value
        return 0


def _around(way: Sequence[nn.Module]) -> Iterator[object]:
    """The last module of the way, its parts and its configuration; then the one that it is in, and that one's."""
    for home in way[:-3:-1]:
        yield home
        if home is way[-1]:
            yield from home.children()
        yield getattr(home, "config", None)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _is_near(name: str, home: str, above: str) -> bool:
    """In the module, directly below it, or in the one that holds it."""
    parent = _parent(name)
    return parent in (home, above) or _parent(parent) == home
