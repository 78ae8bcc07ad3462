"""
In which mode, train or eval, the modules were whose parameters an optimizer is about to step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from trainvitals.frame import ModesSeen
from trainvitals.probes.probe import Look, Probe
from trainvitals.slots import SlotTable

SETTLED_LOOKS = 4
"""A mode that fewer looks in a row have seen is not told as such: some trainers switch between any two steps."""
MODULES_A_LOOK = 64
"""Larger models are read at one of so many looks that this many modules a look are, on average."""
MAX_TENSORS = 16_384
MAX_RATES = 256

BoolArray = npt.NDArray[np.bool_]
Home = Callable[[], nn.Module | None]
"""A weak reference to a module: whoever drops the model is rid of it."""


class Modes(Probe):
    """
    Reports at the first step, when another state has settled, and when one is left, which modules that own tensors are in
    eval mode.

    A module's mode counts when an optimizer that holds one of its parameters is about to step (a GAN's other player
    may be in any mode then), or always if none does. Flags are read from the modules' own dicts, 0.1 us each; modules
    without tensors (dropout) are found by a walk when the tensors' places have changed.
    """

    name = "modes"

    def __init__(self) -> None:
        self._modules = _Modules()
        self._reported: tuple[bytes, int, int] | None = None
        self._seen: tuple[bytes, int, int] | None = None
        self._since = self._looks = 0
        self._step, self._passed, self._reads = -1, 0, False
        self._settled = True

    def before_step(self, look: Look) -> None:
        """The modes in which the gradients were made."""
        slots = look.slots
        if look.step != self._step:
            self._step, self._reads = look.step, self._is_due()
        if not self._reads:
            return
        self._modules.refresh(slots)
        held, stepping = slots.held(), np.zeros(len(slots), np.bool_)
        for optimizer in look.optimizers:
            stepping[slots.holding(optimizer).tensors] = True
        self._modules.read(held, stepping)

    def after_step(self, look: Look) -> None:
        """An event, if what was read is news: where it has settled, and once where it has not."""
        if not self._reads or not self._modules.is_known:
            return
        state = self._modules.state()
        if state != self._seen:
            self._seen, self._since, self._looks = state, look.step, 0
        self._looks += 1
        settled = self._reported is None or self._looks >= SETTLED_LOOKS
        # A state that is left is told too, and once: the next look may see it again after others that none has seen.
        if (state != self._reported) if self._settled else settled:
            self._settled = settled
            self._reported = state if settled else self._reported
            look.record.event(self._modules.event(look.step, self._since, settled))

    def close(self) -> None:
        """Let go of the modules."""
        self._modules = _Modules()

    def _is_due(self) -> bool:
        """Asked once a look. By looks and not by steps: those that are looked at may all leave the same remainder."""
        self._passed += 1
        if self._passed * MODULES_A_LOOK < len(self._modules.owners):
            return False
        self._passed = 0
        return True


class _Modules:
    """The modules that own tensors, and those that drop out, held weakly; and their modes as last read."""

    def __init__(self) -> None:
        self.owners: list[Home] = []
        self._known = -1
        self._owner_of: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._evaluating: BoolArray = np.empty(0, np.bool_)
        self._untracked: BoolArray = np.empty(0, np.bool_)
        self._norms: list[int] = []
        self._dropouts: list[Home] = []
        self._num_dropouts_off = 0
        self._rates: list[float] = []
        self._rates_before: list[float] = []

    @property
    def is_known(self) -> bool:
        """Whether anything was read."""
        return bool(self.owners)

    def refresh(self, slots: SlotTable) -> None:
        """Find the modules again, if tensors are in other places than before."""
        if slots.places_version == self._known:
            return
        self._known = slots.places_version
        homes = [slot.place.home for slot in slots.slots]
        number: dict[int, int] = {}
        self.owners = []
        for home in homes:
            if id(home()) not in number:
                number[id(home())] = len(self.owners)
                self.owners.append(home)
        self._owner_of = np.array([number[id(home())] for home in homes], np.int64)
        self._evaluating = np.zeros(len(self.owners), np.bool_)  # until an optimizer steps them
        self._untracked = np.zeros(len(self.owners), np.bool_)
        modules = [module for model in slots.models for module in model.modules()]
        self._dropouts = [weakref.ref(module) for module in modules if _drops_out(module)]
        self._norms = [
            number[id(module)]
            for module in modules
            if isinstance(module, _NormBase) and id(module) in number
        ]

    def read(self, held: BoolArray, stepping: BoolArray) -> None:
        """The flags of the modules that own a `stepping` tensor, and of those that own no `held` one."""
        count = len(self.owners)
        counts = np.zeros(count, np.bool_)
        counts[self._owner_of[stepping]] = True
        others = np.ones(count, np.bool_)
        others[self._owner_of[held]] = False
        counts |= others
        self._evaluating[counts] = _flags(self.owners)[counts]
        for norm in self._norms:
            self._untracked[norm] = not getattr(self.owners[norm](), "track_running_stats", True)
        self._num_dropouts_off = sum(_flags(self._dropouts).tolist())
        rates = _rates(self._dropouts)
        if self._rates and rates.count(0.0) != self._rates.count(0.0):
            self._rates_before = self._rates
        self._rates = rates

    def state(self) -> tuple[bytes, int, int]:
        """What is compared with the last report. Rates that are annealed would never settle: only whether they are 0."""
        flags = np.packbits(self._evaluating).tobytes() + np.packbits(self._untracked).tobytes()
        return flags, self._num_dropouts_off, self._rates.count(0.0)

    def event(self, step: int, since: int, settled: bool) -> ModesSeen:
        """The state in words of the wire."""
        evaluating = np.flatnonzero(self._evaluating[self._owner_of])
        return ModesSeen(
            step=step,
            since=since,
            settled=settled,
            modules=len(self.owners),
            evaluating=int(self._evaluating.sum()),
            dropouts=len(self._dropouts),
            dropouts_evaluating=self._num_dropouts_off,
            batch_norms=len(self._norms),
            batch_norms_evaluating=int(self._evaluating[self._norms].sum()),
            tensors=evaluating[:MAX_TENSORS].tolist(),
            dropout_rates=list(self._rates),
            dropout_rates_before=list(self._rates_before),
            untracked=np.flatnonzero(self._untracked[self._owner_of])[:MAX_TENSORS].tolist(),
        )


def _flags(homes: list[Home]) -> BoolArray:
    """True for eval mode. Script modules keep the flag elsewhere, and count as training; so do modules that are gone."""
    training = (getattr(home(), "__dict__", {}).get("training", True) for home in homes)
    return np.fromiter((not each for each in training), np.bool_, len(homes))


def _drops_out(module: nn.Module) -> bool:
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        return module.dropout > 0
    return False


def _rates(homes: list[Home]) -> list[float]:
    """The rates of modules that drop out; those of recurrent and attention modules are `dropout`."""
    modules = (home() for home in homes[:MAX_RATES])
    rates = (getattr(module, "p", getattr(module, "dropout", None)) for module in modules)
    return sorted(float(rate) for rate in rates if isinstance(rate, (int, float)))
