"""
What is one step: the clock that everything else goes by.

The clock listens at the optimizer step, through torch's global optimizer hooks: they fire on plain, compiled, FSDP2,
DDP and activation-checkpointed trainers alike, add no graph, and run before and after everybody's instance hooks
(FACTS of hooks: docs/architecture.md). A **round** is what a trainer calls a step: each optimizer steps at most once
in it, so that one loop over two optimizers, or over one optimizer per parameter, is one step, and a GAN's five
discriminator steps are five.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from trainvitals.capture import is_capturing
from trainvitals.guard import Guard
from trainvitals.steppers import (
    distinct,
    has_rate,
    is_phantom,
    parameter_ids,
    plain_optimizers,
)
from trainvitals.stretch import Stretch
from trainvitals.untraced import STEPS, untraced

BeforeStep = Callable[[Sequence[Optimizer]], None]
AfterRound = Callable[[Sequence[Optimizer]], None]

_FORGET_AFTER_ROUNDS = 16
"""An optimizer that has not stepped for so many rounds is no longer waited for (a phase of training is over)."""
_MAX_WITHIN = 16
"""More often than that no optimizer steps within one step of another's: that one has raised, and will never end."""


@dataclass
class _Entered:
    """A step that has begun and not ended; `within`: how often others have begun one inside it, by id."""

    optimizer: Callable[[], Optimizer | None]
    is_ignored: bool
    within: Counter[int] = field(default_factory=Counter)


class Clock:
    """
    Calls `before_step` before each of our optimizers' steps, and `after_round` when a round is over; of the steps of a
    stretch (stretch.py) neither.

    `owns` says whether an optimizer trains the attached model. Ignored are steps of other optimizers, phantom steps
    (see `is_phantom`), and steps inside another optimizer's step: those of a container (torchtitan) or of a wrapper
    (Lookahead, SAM) belong to it. Both callbacks get plain optimizers, never containers. Runs on the trainer's thread;
    costs a few us a step. A forked child is silent.
    """

    def __init__(
        self,
        owns: Callable[[Optimizer], bool],
        before_step: BeforeStep,
        after_round: AfterRound,
        expected: Iterable[Optimizer] = (),
        *,
        stretch: Stretch,
        settle: Callable[[], None],
        is_news: Callable[[], bool] = lambda: False,
        tell: Callable[[], None] = lambda: None,
        guard: Guard,
    ) -> None:
        """
        Nothing that we do may reach the trainer's step: `guard` is around all of it. `settle` is called when the steps
        of a `stretch`, which the callbacks are not called for, are over, or end for now because there `is_news`. Then
        `tell` is called, only ever after a step.
        """
        self._owns = owns
        self._before_step = before_step
        self._after_round = after_round
        self._guard = guard
        self._stretch = stretch
        self._settle = settle
        self._is_news = is_news
        self._tell = tell
        self._pid = os.getpid()
        # Optimizer -> the round it last stepped in. Those given at attach are waited for from the start.
        self._last_round: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        for optimizer in expected:
            self._last_round[optimizer] = 0
        self._rounds = self._begun = self._stretched = 0
        self._round: list[Optimizer] = []
        self._nest: list[_Entered] = []
        # The last one that stepped, where it is ours and plain: nearly always the only one, and known at a glance.
        self._familiar: Callable[[], Optimizer | None] = lambda: None
        self._handles: list[Any] = []

    def start(self) -> None:
        """Begin to listen; every hook is removed again by `stop`."""
        STEPS.hold()
        self._handles = [
            register_optimizer_step_pre_hook(untraced(self._hear_begin)),
            register_optimizer_step_post_hook(untraced(self._hear_end)),
        ]

    def stop(self) -> None:
        """Remove the hooks."""
        self._stretch.close()
        for handle in self._handles:
            handle.remove()
        if self._handles:
            STEPS.release()
        self._handles = []

    def silence(self) -> None:
        """Ignore every step from now on; the hooks stay until `stop`, for torch may be running through them."""
        self._pid = 0
        self._stretch.close()
        self._round, self._nest = [], []

    def touched(self) -> list[str]:
        """What of torch's the clock has put hooks on."""
        hooks = ["torch.optim.optimizer: step pre-hook", "torch.optim.optimizer: step post-hook"]
        return [*hooks, STEPS.label] if self._handles else []

    @property
    def has_seen_optimizers(self) -> bool:
        """Whether any optimizer of ours has stepped."""
        return self._rounds > 0 or bool(self._round)

    @property
    def is_in_round(self) -> bool:
        """Whether a round waits for another optimizer to step."""
        return bool(self._round)

    @property
    def begun(self) -> int:
        """Steps of ours that began so far."""
        return self._begun + self._stretch.begun

    def finish_round(self) -> None:
        """End the round that waits for an optimizer which may not come: at flush, close and the next round's start."""
        self._catch_up()
        if self._round and not self._nest:
            finished, self._round = self._round, []
            self._rounds += 1
            for optimizer in finished:
                self._last_round[optimizer] = self._rounds
            if finished == [self._familiar()]:
                self._stretch.is_allowed = self._is_plain(finished)
                self._after_round(finished)
                return
            self._stretch.is_allowed = False
            self._after_round(
                distinct(leaf for each in finished for leaf in plain_optimizers(each))
            )

    def _hear_begin(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if not self._guard.lightly("stretch", self._stretch.begins, optimizer):
            self._guard.call("clock", self._begins, optimizer)

    def _hear_end(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if not self._guard.lightly("stretch", self._stretch.ends, optimizer):
            self._guard.call("clock", self._ends, optimizer)
        elif not self._stretch.left or self._is_news():
            self._guard.call("clock", self._settle)
            self._guard.call("clock", self._tell)

    def _is_plain(self, finished: Sequence[Optimizer]) -> bool:
        """Whether a stretch of its steps can be: it is the only one, and its rate says at a glance that it steps."""
        alone = not self._nest and self._waited_for() == finished
        return alone and has_rate(finished[0]) and "stretch" not in self._guard.off

    def _leave_stretch(self) -> None:
        """An optimizer steps in another way, or another one: from here on each round is one that is asked about."""
        is_within, optimizer = self._stretch.close(), self._familiar()
        self._settle()
        if is_within and optimizer is not None:
            self._nest.append(_Entered(ref(optimizer), is_ignored=False))

    def _catch_up(self) -> None:
        """Each step of a stretch was a round, of the optimizer that stepped last."""
        steps, optimizer = self._stretch.made - self._stretched, self._familiar()
        if steps:
            self._stretched += steps
            self._rounds += steps
            if optimizer is not None:
                self._last_round[optimizer] = self._rounds

    def _begins(self, optimizer: Optimizer) -> None:
        if os.getpid() != self._pid:
            return
        is_familiar = self._familiar() is optimizer
        if not is_familiar and not self._guard.attempt("optimizer", self._owns, optimizer):
            return
        self._catch_up()
        if self._stretch.left:
            self._leave_stretch()
        plain = [optimizer] if is_familiar else self._plain_of(optimizer)
        self._unwind(optimizer)  # a step that raised has left it there
        self._drop_what_raised(optimizer)
        outermost = not self._nest
        ignored = outermost and (is_capturing() or self._is_no_step(optimizer))
        if outermost and not ignored:
            if optimizer in self._round:
                self.finish_round()
            self._begun += 1
            self._before_step(plain)
        self._nest.append(_Entered(ref(optimizer), ignored))

    def _plain_of(self, optimizer: Optimizer) -> list[Optimizer]:
        """Its plain optimizers, which is itself as a rule."""
        plain = plain_optimizers(optimizer)
        self._familiar = ref(optimizer) if plain == [optimizer] else lambda: None
        return plain

    def _is_no_step(self, optimizer: Optimizer) -> bool:
        """A phantom step, or one of which that can't be said."""
        return self._guard.attempt("optimizer", is_phantom, optimizer) is not False

    def _ends(self, optimizer: Optimizer) -> None:
        ignored = self._unwind(optimizer)
        if ignored is None or ignored or self._nest:
            return
        is_known = optimizer in self._last_round
        if not is_known and self._belongs_to_last_round(optimizer):
            self._last_round[optimizer] = self._rounds
            return
        self._round.append(optimizer)
        is_only_one = is_known and len(self._last_round) == 1
        if is_only_one or all(other in self._round for other in self._waited_for()):
            self.finish_round()

    def _unwind(self, optimizer: Optimizer) -> bool | None:
        """Leave this optimizer's step, and all inside it; whether it was ignored, or None if it was not in one."""
        for depth, entered in enumerate(self._nest):
            if entered.optimizer() is optimizer:
                del self._nest[depth:]
                return entered.is_ignored
        return None

    def _drop_what_raised(self, optimizer: Optimizer) -> None:
        """Steps that will never end: of optimizers that are gone, or that seem to hold all steps of this one."""
        for depth, entered in enumerate(self._nest):
            entered.within[id(optimizer)] += 1
            if entered.optimizer() is None or entered.within[id(optimizer)] > _MAX_WITHIN:
                del self._nest[depth:]
                return

    def _belongs_to_last_round(self, optimizer: Optimizer) -> bool:
        """
        Whether one that is seen for the first time, right after a round that did not wait for it, was part of it.

        Not if it holds what an optimizer of that round holds, or if all of those are gone: then it replaces them.
        """
        if self._round or not self._rounds:
            return False
        partners = [other for other, last in self._last_round.items() if last == self._rounds]
        mine = parameter_ids(optimizer)
        return bool(partners) and all(mine.isdisjoint(parameter_ids(other)) for other in partners)

    def _waited_for(self) -> list[Optimizer]:
        return [
            optimizer
            for optimizer, last in self._last_round.items()
            if self._rounds - last < _FORGET_AFTER_ROUNDS
        ]
