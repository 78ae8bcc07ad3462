"""
Which optimizers train the attached models.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary, WeakSet

from torch.optim import Optimizer

from trainvitals.slots import SlotTable
from trainvitals.steppers import plain_optimizers


class Ownership:
    """
    An optimizer is ours if it was given, or holds a parameter of ours now, or did once: one whose parameters were all
    replaced still steps, and that it moves nothing is what has to be told.

    Asked at every optimizer step in the process, so answers are remembered. Raises what an optimizer raises that can't
    be asked for its groups.
    """

    def __init__(self, slots: SlotTable, given: Iterable[Optimizer] = ()) -> None:
        self._slots = slots
        self._own = WeakSet(given)
        self._others: WeakKeyDictionary[Optimizer, tuple[int, int]] = WeakKeyDictionary()

    def owns(self, optimizer: Optimizer) -> bool:
        """Whether it trains the attached models."""
        if optimizer in self._own:
            return True
        groups = [group for each in plain_optimizers(optimizer) for group in each.param_groups]
        # That another's is not ours takes looking at all of its parameters: again only when something has changed.
        state = (sum(len(group["params"]) for group in groups), self._slots.params_version)
        if self._others.get(optimizer) == state:
            return False
        parameters = [parameter for group in groups for parameter in group["params"]]
        owns = any(self._slots.index_of(parameter) is not None for parameter in parameters)
        # Made after parameters were replaced, it holds objects that no slot has been judged with yet: looked for once.
        if owns or (optimizer not in self._others and self._slots.hold_any(parameters)):
            self._own.add(optimizer)
            return True
        self._others[optimizer] = state
        return False

    def know(self, optimizer: Optimizer) -> None:
        """Given at attach, so what it holds is known before it steps (a GAN's generator may step late)."""
        for plain in plain_optimizers(optimizer):
            self._slots.holding(plain)
