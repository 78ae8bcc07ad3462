"""
The probe of mixtures of experts: loads from token counters or routers' outputs, feeding from gradients, and where a
balancing bias goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.dtypes import reading
from trainvitals.expert_load import routing_row
from trainvitals.probes.probe import Look, Probe
from trainvitals.probes.routing.feeding import Feeding
from trainvitals.probes.routing.load import Load, follows
from trainvitals.probes.routing.outputs import Hook, Outputs
from trainvitals.rests import RANK_STEPS
from trainvitals.routers import Router, find_routers

Floats = npt.NDArray[np.float64]

ROUTERS_A_LOOK = 8
"""Of more than so many routers each is looked at in its turn: 0.1 ms for one."""


@dataclass
class _Seen:
    """What was read of one router: up to the look before, and at this one."""

    router: Router
    hook: Hook | None = None
    """Of a router without a counter; None also where no hook is safe."""
    load: Load = field(default_factory=Load)
    feeding: Feeding = field(default_factory=Feeding)
    bias: Floats | None = None
    weighed: Floats | None = None
    """Load (or feeding) at the look before."""

    @property
    def subject(self) -> int:
        """The tensor that loads are told of."""
        return self.router.counter if self.router.counter >= 0 else self.router.weight


class Routing(Probe):
    """
    Looks before the step, once a round: frameworks zero their counters in a step pre-hook (torchtitan), while gradients
    are finished (Megatron-LM) or when the next step begins. Counters and biases are a few numbers, read in turn;
    gradients of experts are read when the budget has chosen them. One host copy for all counters and biases.

    Routers without a counter are asked by hooks (outputs.py), which count in the steps that will be looked at.
    """

    name = "routing"
    kind = "gradients"

    def __init__(self) -> None:
        self._known = -1
        self._seen: list[_Seen] = []
        self._step = -1
        self._turn = 0
        self._is_armed = False
        self._outputs: Outputs | None = None

    def before_step(self, look: Look) -> None:
        """Rows for every router of which something is known."""
        if look.step == self._step:
            return
        self._step = look.step
        self._refresh(look)
        if not self._seen:
            return
        turn, next_turn = self._turns(look)
        chosen = self._at(turn)
        numbers = _fetch(
            [_local(look, seen.router.counter) for seen in chosen]
            + [None if seen.hook is None else seen.hook.take() for seen in chosen]
            + [_local(look, seen.router.bias) for seen in chosen]
        )
        self._arm(self._at(next_turn))
        count = len(chosen)
        for number, seen in enumerate(chosen):
            counts, taken, bias = numbers[number::count]
            writes = _writes(look, seen.router.counter)
            load = None if counts is None else seen.load.read(counts, writes)
            load = load if taken is None else seen.load.add(taken)
            fed = seen.feeding.read(look, seen.router) if _is_chosen(look, seen.router) else None
            weight = load if load is not None or fed is None else fed.astype(np.float64)
            _report_bias(look, seen, bias, weight)
            seen.bias, seen.weighed = bias, weight
            if load is not None:
                _report_load(look, seen, load)
            if fed is not None:
                _report_feeding(look, seen)

    def rest(self, step: int) -> None:  # noqa: ARG002  (that it happens is all)
        """Nobody will ask what hooks have counted."""
        self._is_armed = False
        self._arm([])

    def is_idle(self) -> bool:
        """As this is asked only after a rest, the hooks do not count."""
        return True

    def limits(self) -> list[str]:
        """Why there is no load of some routers."""
        return [] if self._outputs is None else self._outputs.limits()

    def touched(self) -> list[str]:
        """The modules that have a hook."""
        return [] if self._outputs is None else self._outputs.touched()

    def close(self) -> None:
        """Forget what was read, and take the hooks off."""
        self._seen = []
        if self._outputs is not None:
            self._outputs.close()

    def _refresh(self, look: Look) -> None:
        if look.slots.version == self._known:
            return
        self._known = look.slots.version
        routers = find_routers(look.slots)
        if routers and self._outputs is None:
            self._outputs = Outputs(self.guarded)
        hooks = {} if self._outputs is None else self._outputs.place(routers, look.slots)
        before = {each.router: each for each in self._seen}
        self._seen = [before.get(each) or _Seen(each) for each in routers]
        for seen in self._seen:
            seen.hook = hooks.get(seen.router)

    def _turns(self, look: Look) -> tuple[int, int]:
        """
        This look's, and that of the next step if it is looked at.

        A turn lasts until hooks have counted for it: they can't at a look that follows rests. By looks, for the steps
        that are looked at may all leave the same remainder. Ranks' loads are added up where all tell of one router at
        one step, so their turns go by steps: one further at each that no rank rests at, which the step after it shares.
        """
        if look.slots.world_size > 1:
            return _turn_of_ranks(look.step), _turn_of_ranks(look.step + 1)
        turn = self._turn
        self._turn += self._is_armed
        self._is_armed = True
        return turn, self._turn

    def _at(self, turn: int) -> list[_Seen]:
        turns = -(-len(self._seen) // ROUTERS_A_LOOK)
        return self._seen[turn % turns :: turns]

    def _arm(self, next_ones: list[_Seen]) -> None:
        hooks = {id(seen.hook) for seen in next_ones}
        for seen in self._seen:
            if seen.hook is not None:
                seen.hook.arm(id(seen.hook) in hooks)


def _turn_of_ranks(step: int) -> int:
    laps, since = divmod(step, RANK_STEPS)
    return laps + max(since - 1, 0)


def _is_chosen(look: Look, router: Router) -> bool:
    index = router.stack if router.stack >= 0 else next(iter(router.listed), -1)
    return index in look.choice.gradients


def _writes(look: Look, index: int) -> int:
    """The counter's version; always 0 where it has none (inference tensors)."""
    tensor = look.slots.tensor(index) if index >= 0 else None
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def _local(look: Look, index: int) -> torch.Tensor | None:
    """A small tensor, as it lies here; None: there is none, or it can't be read."""
    part = look.slots.local(index) if index >= 0 else None
    return None if part is None or reading(part) is None else part


def _fetch(parts: list[torch.Tensor | None]) -> list[Floats | None]:
    """Their elements, in one copy to the host."""
    kept = [part for part in parts if part is not None]
    if not kept:
        return [None] * len(parts)
    home = kept[0].device
    flat = torch.cat([part.reshape(-1).to(home, torch.float64) for part in kept]).cpu().numpy()
    pieces = iter(np.split(flat, np.cumsum([part.numel() for part in kept])[:-1]))
    return [None if part is None else next(pieces) for part in parts]


def _report_load(look: Look, seen: _Seen, load: Floats) -> None:
    """Of a router that several ranks share each tells what it counted; alone it tells what that means."""
    recent = np.sum(seen.load.recent, axis=0)
    router, count = seen.router, len(load)
    if look.slots.world_size > 1 and _is_shared(look, router):
        look.add(
            "expert_loads",
            [seen.subject] * count,
            expert=np.arange(count),
            choices=load,
            recent=recent,
            of_a_token=[router.chosen] * count,
        )
        return
    row = routing_row(load, recent, router.chosen)
    look.add("routing", [seen.subject], **{name: [value] for name, value in row.items()})


def _is_shared(look: Look, router: Router) -> bool:
    """Whether torch declares that other ranks have the same router; pipeline stages may only share its name."""
    return router.weight >= 0 and look.slots.layout(router.weight).kind != "unknown"


def _report_feeding(look: Look, seen: _Seen) -> None:
    feeds = np.sum(seen.feeding.recent, axis=0)
    fed = seen.feeding.recent[-1]
    router = seen.router
    look.add(
        "feeding",
        [router.stack if router.stack >= 0 else router.listed[0]],
        stacked=[len(fed)],
        fed=[int(fed.sum())],
        unfed=[int((feeds == 0).sum())],
        usual_feeds=[float(np.median(feeds))],
    )


def _report_bias(look: Look, seen: _Seen, bias: Floats | None, weight: Floats | None) -> None:
    """A bias is moved before the step from this step's load, or after it: by the next look, from the last one's."""
    if bias is None or seen.bias is None or len(bias) != len(seen.bias):
        return
    loads = [one for one in (weight, seen.weighed) if one is not None and len(one) == len(bias)]
    found = [follows(bias - seen.bias, one) for one in loads]
    known = [one for one in found if one is not None]
    if known:
        look.add("balancing", [seen.router.bias], follows=[min(known)])
