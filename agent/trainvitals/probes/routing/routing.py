"""
The probe of mixtures of experts: loads from token counters, feeding from gradients, and where a balancing bias goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.dtypes import reading
from trainvitals.probes.probe import Look, Probe
from trainvitals.probes.routing.feeding import Feeding
from trainvitals.probes.routing.load import Load, effective, follows
from trainvitals.routers import Router, find_routers

Floats = npt.NDArray[np.float64]

ROUTERS_A_STEP = 8
"""Of more than so many routers each is looked at in its turn: 0.1 ms for one."""


@dataclass
class _Seen:
    """What was read of one router: up to the look before, and at this one."""

    router: Router
    load: Load = field(default_factory=Load)
    feeding: Feeding = field(default_factory=Feeding)
    bias: Floats | None = None
    weighed: Floats | None = None
    """Load (or feeding) at the look before."""


class Routing(Probe):
    """
    Looks before the step, once a round: frameworks zero their counters in a step pre-hook (torchtitan), while gradients
    are finished (Megatron-LM) or when the next step begins. Counters and biases are a few numbers, read in turn;
    gradients of experts are read when the budget has chosen them. One host copy for all counters and biases.
    """

    name = "routing"
    kind = "gradients"

    def __init__(self) -> None:
        self._known = -1
        self._seen: list[_Seen] = []
        self._step = -1

    def before_step(self, look: Look) -> None:
        """Rows for every router of which something is known."""
        if look.step == self._step:
            return
        self._step = look.step
        self._refresh(look)
        if not self._seen:
            return
        turns = -(-len(self._seen) // ROUTERS_A_STEP)
        chosen = self._seen[look.step % turns :: turns]
        numbers = _read(look, [each.router.counter for each in chosen])
        biases = _read(look, [each.router.bias for each in chosen])
        for seen, counts, bias in zip(chosen, numbers, biases, strict=True):
            writes = _writes(look, seen.router.counter)
            load = None if counts is None else seen.load.read(counts, writes)
            fed = seen.feeding.read(look, seen.router) if _is_chosen(look, seen.router) else None
            weight = load if load is not None or fed is None else fed.astype(np.float64)
            _report_bias(look, seen, bias, weight)
            seen.bias, seen.weighed = bias, weight
            if load is not None:
                _report_load(look, seen, load)
            if fed is not None:
                _report_feeding(look, seen)

    def close(self) -> None:
        """Forget what was read."""
        self._seen = []

    def _refresh(self, look: Look) -> None:
        if look.slots.version == self._known:
            return
        self._known = look.slots.version
        before = {each.router: each for each in self._seen}
        self._seen = [before.get(each, _Seen(each)) for each in find_routers(look.slots)]


def _is_chosen(look: Look, router: Router) -> bool:
    index = router.stack if router.stack >= 0 else next(iter(router.listed), -1)
    return index in look.choice.gradients


def _writes(look: Look, index: int) -> int:
    """The counter's version; always 0 where it has none (inference tensors)."""
    tensor = look.slots.tensor(index) if index >= 0 else None
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def _read(look: Look, indices: list[int]) -> list[Floats | None]:
    """The elements of small tensors, in one copy to the host; None: no such tensor, or no data."""
    parts = [look.slots.local(index) if index >= 0 else None for index in indices]
    kept = [part for part in parts if part is not None and reading(part) is not None]
    if not kept:
        return [None] * len(indices)
    home = kept[0].device
    flat = torch.cat([part.reshape(-1).to(home, torch.float64) for part in kept]).cpu().numpy()
    pieces = iter(np.split(flat, np.cumsum([part.numel() for part in kept])[:-1]))
    return [
        next(pieces) if part is not None and reading(part) is not None else None for part in parts
    ]


def _report_load(look: Look, seen: _Seen, load: Floats) -> None:
    recent = np.sum(seen.load.recent, axis=0)
    look.add(
        "routing",
        [seen.router.counter],
        experts=[len(load)],
        chosen=[seen.router.chosen],
        effective_experts=[effective(load)],
        busiest=[float(load.max() / load.mean())],
        recent_tokens=[recent.sum()],
        recent_effective=[effective(recent)],
        unused=[int((recent == 0).sum())],
    )


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
