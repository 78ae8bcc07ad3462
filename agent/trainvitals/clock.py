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
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from trainvitals.capture import is_capturing
from trainvitals.guard import Guard
from trainvitals.steppers import distinct, is_phantom, parameter_ids, plain_optimizers
from trainvitals.stretch import Stretch
from trainvitals.untraced import STEPS, untraced

BeforeStep = Callable[[Sequence[Optimizer]], None]
AfterRound = Callable[[Sequence[Optimizer]], None]

_FORGET_AFTER_ROUNDS = 16
"""An optimizer that has not stepped for so many rounds is no longer waited for (a phase of training is over)."""


class Clock:
    """
    Calls `before_step` before each of our optimizers' steps, and `after_round` when a round is over.

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
        guard: Guard,
    ) -> None:
        """
        Nothing that we do may reach the trainer's step: `guard` is around all of it. `settle` is called when the steps
        of a `stretch`, which the callbacks are not called for, are over.
        """
        self._owns = owns
        self._before_step = before_step
        self._after_round = after_round
        self._guard = guard
        self._stretch = stretch
        self._settle = settle
        self._pid = os.getpid()
        # Optimizer -> the round it last stepped in. Those given at attach are waited for from the start.
        self._last_round: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        for optimizer in expected:
            self._last_round[optimizer] = 0
        self._rounds = self._begun = self._stretched = 0
        self._round: list[Optimizer] = []
        self._nest: list[tuple[Optimizer, bool]] = []
        # The last one that stepped, where it is ours and plain: nearly always the only one, and known at a glance.
        self._familiar: Callable[[], Optimizer | None] = lambda: None
        self._handles: list[Any] = []

    def start(self) -> None:
        """Begin to listen; every hook is removed again by `stop`."""
        STEPS.hold()
        self._handles = [
            register_optimizer_step_pre_hook(untraced(self._before)),
            register_optimizer_step_post_hook(untraced(self._after)),
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
                self._stretch.is_allowed = not self._nest and self._waited_for() == finished
                self._after_round(finished)
                return
            self._stretch.is_allowed = False
            self._after_round(
                distinct(leaf for each in finished for leaf in plain_optimizers(each))
            )

    def _before(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if not self._guard.lightly("stretch", self._stretch.begins, optimizer):
            self._guard.call("clock", self._pre, optimizer)

    def _after(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if not self._guard.lightly("stretch", self._stretch.ends, optimizer):
            self._guard.call("clock", self._post, optimizer)
        elif not self._stretch.left:
            self._guard.call("clock", self._settle)

    def _leave_stretch(self) -> None:
        """An optimizer steps in another way, or another one: from here on each round is one that is asked about."""
        is_within, optimizer = self._stretch.close(), self._familiar()
        self._settle()
        if is_within and optimizer is not None:
            self._nest.append((optimizer, False))

    def _catch_up(self) -> None:
        """Each step of a stretch was a round, of the optimizer that stepped last."""
        steps, optimizer = self._stretch.made - self._stretched, self._familiar()
        if steps:
            self._stretched += steps
            self._rounds += steps
            if optimizer is not None:
                self._last_round[optimizer] = self._rounds

    def _pre(self, optimizer: Optimizer) -> None:
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
        outermost = not self._nest
        ignored = outermost and (is_capturing() or self._is_no_step(optimizer))
        if outermost and not ignored:
            if optimizer in self._round:
                self.finish_round()
            self._begun += 1
            self._before_step(plain)
        self._nest.append((optimizer, ignored))

    def _plain_of(self, optimizer: Optimizer) -> list[Optimizer]:
        """Its plain optimizers, which is itself as a rule."""
        plain = plain_optimizers(optimizer)
        self._familiar = ref(optimizer) if plain == [optimizer] else lambda: None
        return plain

    def _is_no_step(self, optimizer: Optimizer) -> bool:
        """A phantom step, or one of which that can't be said."""
        return self._guard.attempt("optimizer", is_phantom, optimizer) is not False

    def _post(self, optimizer: Optimizer) -> None:
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
        for depth, (entered, ignored) in enumerate(self._nest):
            if entered is optimizer:
                del self._nest[depth:]
                return ignored
        return None

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
