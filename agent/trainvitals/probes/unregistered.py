"""
Tensors that modules hold without registering them: which of them get gradients, which move, and how.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from trainvitals.events import UnregisteredSeen, UnregisteredTensor
from trainvitals.layout import is_dtensor
from trainvitals.probes.probe import Look, Probe
from trainvitals.slots import SlotTable
from trainvitals.unregistered import UnregisteredPlace, find_unregistered

MAX_FOLLOWED = 64
ELEMENTS = 64
"""Of each followed tensor so many elements, spread over it, are compared with the look before."""
BURST_STEPS = 32
REST_STEPS = 256
"""So many steps in a row are looked at, and again after a rest."""
WALK_STEPS = 16
"""Walks are at least so many steps apart; the first two steps have one each."""
TOLD_AT = (8, 16, 32)
"""Steps of a burst after which what was seen is told."""


class Unregistered(Probe):
    """
    Follows what hangs on the modules as plain attributes, or in their lists, tuples and dicts, parameters of modules
    in these among it: 10 us a tensor and step, while a burst lasts. Most models have none that moves.

    Left out is what a slot holds too, what shares its memory, and what is computed in the forward pass. A tensor
    without gradient is followed only if it was there, in this shape, when the agent was attached.
    """

    name = "unregistered"

    def __init__(self) -> None:
        self._followed: dict[tuple[str, int], _Followed] = {}
        self._from_start: dict[str, torch.Size] | None = None
        self._rounds = 0
        self._last_walk = -WALK_STEPS

    def attached(self, slots: SlotTable) -> None:
        """What is there before any forward pass of this attempt."""
        places = find_unregistered(slots.models)
        found = [(place.fqn, place.now()) for place in places]
        self._from_start = {fqn: tensor.shape for fqn, tensor in found if tensor is not None}

    def before_step(self, look: Look) -> None:
        """Look for places when it is time, and at the gradients of what is followed."""
        if self._from_start is None:
            self.attached(look.slots)
        due = look.choice.walk and look.step - self._last_walk >= WALK_STEPS
        if look.first or self._rounds < 2 or due:
            self._last_walk = look.step
            self._find(look.slots)
        if self._followed and self._is_burst():
            for one in self._followed.values():
                one.look_at_gradient()

    def after_step(self, look: Look) -> None:
        """What has moved; told now and then."""
        position = self._rounds % REST_STEPS
        if self._followed and self._is_burst():
            for one in self._followed.values():
                one.look_at_value(begins=position == 0)
            if position + 1 in TOLD_AT:
                self._tell(look)
        self._rounds += 1

    def close(self) -> None:
        """Let go of the places."""
        self._followed.clear()

    def _is_burst(self) -> bool:
        return self._rounds % REST_STEPS < BURST_STEPS

    def _find(self, slots: SlotTable) -> None:
        followed: dict[tuple[str, int], _Followed] = {}
        storages: set[int] | None = None
        for place in find_unregistered(slots.models):
            tensor = place.now()
            if tensor is None or not _is_readable(tensor) or slots.index_of(tensor) is not None:
                continue
            if len(followed) >= MAX_FOLLOWED or not self._may_matter(place, tensor):
                continue
            storages = _storages(slots) if storages is None else storages
            if tensor.untyped_storage().data_ptr() not in storages:
                key = (place.fqn, id(place.home()))
                known = self._followed.get(key)
                followed[key] = known or _Followed(place, tensor, self._was_there(place, tensor))
        self._followed = followed
        slots.unregistered = [one.place for one in followed.values()]

    def _may_matter(self, place: UnregisteredPlace, tensor: torch.Tensor) -> bool:
        if tensor.requires_grad:
            return tensor.is_leaf
        return tensor.numel() > 1 and self._was_there(place, tensor)

    def _was_there(self, place: UnregisteredPlace, tensor: torch.Tensor) -> bool:
        return (self._from_start or {}).get(place.fqn) == tensor.shape

    def _tell(self, look: Look) -> None:
        held = {
            id(parameter)
            for optimizer in look.slots.optimizers()
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        rows = [one.row(held) for one in self._followed.values()]
        seen = [row for row in rows if row is not None]
        if seen:
            look.record.event(UnregisteredSeen(step=look.step, tensors=seen))


@dataclass(eq=False)
class _Followed:
    """One place and what was seen of it; sums stay on the tensor's device until they are told."""

    place: UnregisteredPlace
    first: torch.Tensor
    from_start: bool
    looks: int = 0
    is_derived: bool = False
    gradients: int | torch.Tensor = 0
    moves: int | torch.Tensor = 0
    one_step: float | torch.Tensor = 0.0
    two_steps: float | torch.Tensor = 0.0
    _gradient: tuple[int, int, torch.Tensor] | None = None
    _before: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trainable = self.first.requires_grad
        self.shape, self.dtype = self.first.shape, self.first.dtype
        if self.from_start or self.trainable:
            self._before = [_cut(self.first)]
        del self.first

    def look_at_gradient(self) -> None:
        """Counts gradients that are not those of the look before: a copied module brings its old ones along."""
        tensor = self.place.now()
        gradient = None if tensor is None or not tensor.is_leaf else tensor.grad
        if gradient is None or not _is_readable(gradient):
            self._gradient = None
            return
        before, cut = self._gradient, _cut(gradient)
        self._gradient = (id(gradient), gradient._version, cut)
        if before is not None and before[2].shape == cut.shape:
            self.gradients = self.gradients + (before[2] != cut).any()

    def look_at_value(self, begins: bool) -> None:
        """Adds up how far it went in one step, and in two; a burst begins anew."""
        tensor = self.place.now()
        if tensor is None or tensor.shape != self.shape or not _is_readable(tensor):
            self._before.clear()
            return
        self.is_derived = self.is_derived or not tensor.is_leaf
        if begins and self.looks:
            self._before.clear()
        now = _cut(tensor)
        if self._before:
            self.looks += 1
            apart = (now - self._before[-1]).square().sum()
            self.moves = self.moves + (now != self._before[-1]).any()
            if len(self._before) > 1:
                self.one_step = self.one_step + apart
                self.two_steps = self.two_steps + (now - self._before[-2]).square().sum()
        self._before = [*self._before[-1:], now]

    def row(self, held: set[int]) -> UnregisteredTensor | None:
        """What is told of it; None if there was neither a gradient nor a movement, or if it is computed."""
        gradients, moves = int(self.gradients), int(self.moves)
        tensor, home = self.place.now(), self.place.home()
        if self.is_derived or tensor is None or not (gradients or moves):
            return None
        one_step, two_steps = float(self.one_step), float(self.two_steps)
        drift = two_steps / one_step if one_step > 0 else 0.0
        return UnregisteredTensor(
            fqn=self.place.fqn[:512],
            module=type(home).__name__,
            shape=list(self.shape),
            dtype=str(self.dtype).removeprefix("torch."),
            trainable=self.trainable,
            held=id(tensor) in held,
            evaluating=not getattr(home, "__dict__", {}).get("training", True),
            from_start=self.from_start,
            looks=self.looks,
            gradients=gradients,
            moves=moves,
            drift=drift if math.isfinite(drift) else 0.0,
        )


def _is_readable(tensor: torch.Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.is_floating_point()
        and tensor.device.type != "meta"
        and not tensor.is_nested
        and not is_dtensor(tensor)
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.numel() > 0
    )


def _cut(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of some elements, spread over the tensor; of one that is not contiguous, of its first row."""
    flat = tensor.detach()
    while not flat.is_contiguous() and flat.dim() > 1:
        flat = flat[0]
    flat = flat.reshape(-1)
    return flat[:: -(-flat.numel() // ELEMENTS)].to(torch.float64, copy=True)


def _storages(slots: SlotTable) -> set[int]:
    found = set()
    for index in range(len(slots)):
        part = slots.local(index)
        if part is not None and part.layout is torch.strided and part.device.type != "meta":
            found.add(part.untyped_storage().data_ptr())
    return found
