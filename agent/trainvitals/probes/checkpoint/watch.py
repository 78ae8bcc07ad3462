"""
Watching saves and loads, for the whole process: who holds the patches, and who is told of what.

The watch knows nothing of digests, and not which functions there are (targets.py does): it tells those who listen of
each `Call`, from inside it and on its thread. Arguments, results and exceptions pass through untouched.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, Protocol

from torch import nn

from trainvitals.awaited import AwaitedModules
from trainvitals.guard import Guard
from trainvitals.patches import Around, Patch
from trainvitals.probes.checkpoint.journal import Journal


@dataclass
class Call:
    """
    One save or load while it happens.

    `handed` is the object that was handed over, never changed. `module`: what a load goes into, if it says so; `assign`:
    the load puts the handed tensors themselves there. The rest is known after the call: what a load reported as
    `missing` and `unexpected`, and whether the call raised. `taken`: an attached model is loaded.
    """

    op: Literal["save", "load"]
    api: str
    handed: Any
    path: str = ""
    module: nn.Module | None = None
    assign: bool = False
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    failed: bool = False
    taken: bool = False


Finish = Callable[[Call], None]
"""What a listener wants to do when the call is over, be it by an exception."""


class Listener(Protocol):
    """Somebody who is told of saves and loads."""

    def look(self, call: Call) -> Finish | None:
        """Called before anything is written or loaded, on the caller's thread."""


@dataclass(frozen=True)
class Target:
    """
    A function to patch: `module`, the class in it (or ""), its name. Targets that `serve` the same purpose are
    alternatives from different versions: one of them is enough.
    """

    module: str
    owner: str
    name: str
    serves: str
    around: Callable[[Watch], Around]

    @property
    def label(self) -> str:
        """The dotted name."""
        return ".".join(part for part in (self.module, self.owner, self.name) if part)


class Watch:
    """
    The process-wide watch: `hold` installs the patches, the last `release` gives everything back.

    While held, the journal remembers loads for models that are not attached yet. Thread-safe; silent in forked
    children, until one holds it. A call inside another one (DCP calls torch.save for each tensor) is part of that one.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self.journal = Journal()
        self._targets = targets
        self._lock = threading.RLock()
        self._holders = 0
        self._patches: list[Patch] = []
        self._absent: list[str] = []
        self._awaited: AwaitedModules | None = None
        # A trainer's save must not fail because of us: one guard for all, a part for each listener.
        self._guard = Guard()
        self._parts = (f"watching saves and loads ({number})" for number in count(1))
        self._journal_part = next(self._parts)
        self._listeners: list[tuple[str, Listener]] = []
        self._local = threading.local()
        self._pid = os.getpid()

    def hold(self) -> None:
        """Install the watch, or count one more holder of it. Costs under a millisecond; imports nothing."""
        with self._lock:
            self._holders += 1
            if self._pid != os.getpid():
                # A forked child that attaches by itself: patches and loads hold here, listeners do not.
                self._pid = os.getpid()
                self._listeners = []
            if self._holders == 1:
                modules = dict.fromkeys(target.module for target in self._targets)
                for module in modules:
                    if module in sys.modules:
                        self._patch(module)
                missing = [module for module in modules if module not in sys.modules]
                self._awaited = AwaitedModules(missing, self._patch)

    def release(self) -> None:
        """One holder less; the last one restores every patched name."""
        with self._lock:
            self._holders = max(self._holders - 1, 0)
            if self._holders == 0:
                for patch in reversed(self._patches):
                    patch.restore()
                self._patches, self._absent = [], []
                if self._awaited is not None:
                    self._awaited.stop()
                    self._awaited = None

    def listen(self, listener: Listener) -> None:
        """Tell this listener of every save and load from now on."""
        with self._lock:
            self._listeners.append((next(self._parts), listener))

    def unlisten(self, listener: Listener) -> None:
        """Stop telling it."""
        with self._lock:
            self._listeners = [item for item in self._listeners if item[1] is not listener]

    def touched(self) -> list[str]:
        """Everything of other libraries that is replaced now, as dotted names."""
        names = [patch.label for patch in self._patches]
        waits = self._awaited is not None and bool(self._awaited.names)
        return [*names, "sys.meta_path"] if waits else names

    def absent(self) -> list[str]:
        """Names that the installed versions do not have: what they carry is not seen."""
        return list(self._absent)

    def awaited(self) -> list[str]:
        """Modules that nobody has imported yet; they are patched when somebody does."""
        return sorted(self._awaited.names) if self._awaited is not None else []

    def _patch(self, module: str) -> None:
        with self._lock:
            if not self._holders:
                return
            mine = [target for target in self._targets if target.module == module]
            served = set()
            for target in mine:
                owner: Any = sys.modules[module]
                owner = getattr(owner, target.owner, None) if target.owner else owner
                if owner is not None and target.name in vars(owner):
                    around = target.around(self)
                    self._patches.append(Patch(owner, target.name, target.label, around))
                    served.add(target.serves)
            self._absent += [target.label for target in mine if target.serves not in served]

    def watched(self, make: Callable[[], Call | None], original: Callable[[], Any]) -> Any:
        """
        Run `original`, telling the listeners before and after of the call that `make` describes.

        Inside another watched call it is only run.
        """
        if self.is_silent:
            return original()
        self._local.inside = True
        try:
            # Storages and file objects may have attributes that raise.
            call = self._guard.attempt("describing a save or load", make)
            if call is None:
                return original()
            finishes = self._look(call)
            call.failed = True
            try:
                result = original()
                call.failed = False
                if call.module is not None:
                    call.missing = list(getattr(result, "missing_keys", None) or ())
                    call.unexpected = list(getattr(result, "unexpected_keys", None) or ())
                return result
            finally:
                for part, finish in finishes:
                    self._guard.call(part, finish, call)
        finally:
            self._local.inside = False

    @property
    def is_silent(self) -> bool:
        """Whether this thread is inside a watched call already, or this process is a forked child."""
        return getattr(self._local, "inside", False) or os.getpid() != self._pid

    def note(self, flat: Any, handed: Any) -> None:
        """Keep what `flat` was made of, for a function further down that only gets to see that."""
        self._local.noted = (flat, handed)

    def noted(self, flat: Any) -> Any:
        """What the last `note` on this thread says of `flat`, else None; it is forgotten here."""
        noted, self._local.noted = getattr(self._local, "noted", (None, None)), (None, None)
        return noted[1] if noted[0] is flat else None

    def _look(self, call: Call) -> list[tuple[str, Finish]]:
        finishes = []
        # The journal comes last: it keeps the loads that no attached model has taken.
        for part, listener in (*self._listeners, (self._journal_part, self.journal)):
            finish = self._guard.call(part, listener.look, call)
            if finish is not None:
                finishes.append((part, finish))
        return finishes
