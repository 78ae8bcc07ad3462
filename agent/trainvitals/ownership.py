"""
Which optimizers train the attached models.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch.optim import Optimizer

from trainvitals.clock import plain_optimizers
from trainvitals.slots import SlotTable


class Ownership:
    """
    Asked at every optimizer step in the process, so answers about optimizers of others are remembered.

    Raises what an optimizer raises that can't be asked for its groups.
    """

    def __init__(self, slots: SlotTable) -> None:
        self._slots = slots
        self._others: WeakKeyDictionary[Optimizer, tuple[int, int]] = WeakKeyDictionary()

    def owns(self, optimizer: Optimizer) -> bool:
        """Whether it holds a parameter of ours."""
        groups = [group for each in plain_optimizers(optimizer) for group in each.param_groups]
        # Ours is known by its first parameter; that another's is not is remembered, for it takes looking at them all.
        state = (sum(len(group["params"]) for group in groups), self._slots.params_version)
        if self._others.get(optimizer) == state:
            return False
        parameters = (parameter for group in groups for parameter in group["params"])
        if any(self._slots.index_of(parameter) is not None for parameter in parameters):
            return True
        self._others[optimizer] = state
        return False

    def know(self, optimizer: Optimizer) -> None:
        """Given at attach, so what it holds is known before it steps (a GAN's generator may step late)."""
        for plain in plain_optimizers(optimizer):
            self._slots.holding(plain)
