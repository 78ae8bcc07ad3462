"""
Coming to a program that nobody edited: from its import of torch to its end. Which models are attached to is following.py's.

Touches, until `leave`: `sys.meta_path` until torch is imported; torch's global optimizer step pre-hooks; the
checkpoint watch (so that loads before the first step are seen); `torch.autograd.backward` until something is attached.
"""

from __future__ import annotations

import atexit
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any

from trainvitals.attempt import read_world
from trainvitals.awaited import AwaitedModules
from trainvitals.environment import check_environment
from trainvitals.errors import BadSetting
from trainvitals.settings import resolve
from trainvitals.speech import say

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from trainvitals.following import Following
    from trainvitals.guard import Guard

PATIENCE_S = 300.0
"""A training that calls backward() for so long without a step of a torch optimizer won't be watched: long after the
largest accumulation (a step of a big model takes a minute), and early enough to be told on the first day."""


def arrive() -> None:
    """
    For the start-up hook, when the program has just imported torch. Raises nothing; says what is asked for wrongly.

    Programs that make no optimizer are not spoken to: who exports TRAINVITALS=1 runs other things, too.
    """
    try:
        check_environment()
    except BadSetting as error:
        if read_world().rank == 0:
            say(f"nothing is watched: {error}")
        return
    arrival = Arrival(speaks_to_all=False)
    arrival.listen()
    atexit.register(arrival.leave)


class Arrival:
    """
    Waits for the first real step, at which it lets `Following` attach, and ends the program after `steps` steps (0:
    never). `speaks_to_all`: says why nothing was attached, whatever the program did; else only if it made an optimizer.
    """

    def __init__(self, steps: int = 0, *, speaks_to_all: bool = True) -> None:
        self._steps = steps
        self._steps_done = 0
        self._speaks_to_all = speaks_to_all
        self._round: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._awaited: AwaitedModules | None = None
        self._guard: Guard | None = None
        self._following: Following | None = None
        self._handle: Any = None
        self._num_backwards = 0
        self._first_backward = 0.0
        self._has_lost_patience = False

    def await_torch(self) -> None:
        """Begin as soon as the program has imported torch: its settings of the environment come first."""
        if "torch" in sys.modules:
            self.listen()
        else:
            self._awaited = AwaitedModules(["torch"], lambda _: self.listen())

    def listen(self) -> None:
        """Begin; torch is imported. Cost: 0.1 s, which the agent's modules take."""
        from trainvitals.guard import Guard

        self._guard = Guard()
        self._guard.call("listening", self._listen)

    def leave(self) -> None:
        """Close the agents, take everything down, and say what was never seen."""
        if self._awaited is not None:
            self._awaited.stop()
        if self._following is not None:
            self._following.close()
        lines = self._last_lines()
        if self._handle is not None:
            from trainvitals.backwards import BACKWARDS
            from trainvitals.probes.checkpoint import WATCH

            self._handle.remove()
            BACKWARDS.release(self)
            WATCH.release()
        if _may_speak():
            for line in lines:
                say(line)

    def called(self, roots: Any, gradients: Any) -> None:  # noqa: ARG002  (a listener of BACKWARDS)
        """The program trains, be it with a torch optimizer or without."""
        if self._guard is not None:
            self._guard.call("count of backward()", self._count_backward)

    def _count_backward(self) -> None:
        now = time.monotonic()
        self._first_backward = self._first_backward or now
        self._num_backwards += 1
        if now - self._first_backward > PATIENCE_S and not self._has_lost_patience:
            self._has_lost_patience = True
            if _may_speak():
                say(
                    f"{self._num_backwards} calls of backward() in {PATIENCE_S:.0f} s, and no step of a torch optimizer: "
                    f"nothing is watched so far; {_ADVICE}"
                )

    def _listen(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        from trainvitals.backwards import BACKWARDS
        from trainvitals.following import Following
        from trainvitals.probes.checkpoint import WATCH
        from trainvitals.untraced import untraced

        self._following = Following()
        WATCH.hold()
        BACKWARDS.hold(self)
        self._handle = register_optimizer_step_pre_hook(untraced(self._before_step))

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        from trainvitals.steppers import is_phantom

        guard, following = self._guard, self._following
        if guard is None or following is None:
            return
        # Each by itself: whatever keeps us from attaching, `steps` still ends the program.
        if guard.call("phantom steps", is_phantom, optimizer):
            return
        guard.call("count of steps", self._count, optimizer)
        guard.call("attach", self._look_at, following, optimizer)
        for hook in tuple(following.hooks.values()):
            hook(optimizer, args, kwargs)

    def _look_at(self, following: Following, optimizer: Optimizer) -> None:
        if following.has_looked_at(optimizer):
            return
        from trainvitals.backwards import BACKWARDS

        BACKWARDS.release(self)
        following.look_at(optimizer)

    def _count(self, optimizer: Optimizer) -> None:
        """A step begins when an optimizer steps again; the one after the last does not begin."""
        if optimizer in self._round:
            self._steps_done += 1
            self._round.clear()
            if self._steps_done == self._steps:
                raise SystemExit(0)
        self._round.add(optimizer)

    def _last_lines(self) -> list[str]:
        lines = []
        if self._steps and self._steps_done == self._steps:
            lines.append(f"ended after {self._steps} steps, as asked (--steps)")
        following = self._following
        if following is not None and (following.has_attached or following.is_left_to_program):
            return [*lines, *_passed_over(following)]
        if self._speaks_to_all or _has_optimizers():
            lines.append(f"{self._why_nothing()}: nothing was attached here; {_ADVICE}")
        return lines

    def _why_nothing(self) -> str:
        if self._following is None:
            return "torch was never imported"
        if self._guard is not None and "attach" in self._guard.off:
            return f"attaching failed ({self._guard.off['attach']})"
        if self._following.unowned:
            return f"no live model owns what {' and '.join(self._following.unowned)} trains"
        if self._following.why_not:
            return self._following.why_not
        called = f" in {self._num_backwards} calls of backward()" if self._num_backwards else ""
        return f"no optimizer step was seen in this process{called}"


_ADVICE = "call trainvitals.attach(model, optimizer) in the program"


def _may_speak() -> bool:
    """On one rank, if people want to hear."""
    try:
        is_quiet = resolve({}).quiet
    except (
        BadSetting
    ):  # the program has changed its environment since: why nothing is watched will be said
        is_quiet = False
    return read_world().rank == 0 and not is_quiet


def _passed_over(following: Following) -> list[str]:
    """What later optimizers trained and no agent watched."""
    lines = [
        f"not watched: the {number} tensors that {name} holds, which belong to no live model"
        for name, number in following.unowned.items()
    ]
    if following.num_late:
        lines.append(
            f"not watched: what {following.num_late} later optimizer(s) train, which came after the first step"
        )
    return lines


def _has_optimizers() -> bool:
    """Whether the program has made any: the first one of each class marks the class's `step`."""
    if "torch.optim.optimizer" not in sys.modules:
        return False
    from torch.optim import Optimizer

    kinds = [Optimizer]
    while kinds:
        kind = kinds.pop()
        if getattr(kind.step, "hooked", False):
            return True
        kinds += kind.__subclasses__()
    return False
