"""
Replacing functions of other libraries, and giving them back: the mechanics, with no idea of what is watched.

A patch uses the object that it replaced, so it adds to whatever was there before. When somebody else has patched on
top of it meanwhile, giving back would break their chain: the patch stays where it is and only passes calls through.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakSet, ref

from trainvitals.untraced import keep_untraced

Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called instead of a function, with that function and the call's arguments; answers with the call's result."""

ListenerT = TypeVar("ListenerT")


class Patch:
    """
    One attribute of a module or class, replaced by a wrapper that calls `around` while the patch is active.

    `opaque`: Dynamo is kept out of the wrapper, as it is out of what that replaces.
    """

    def __init__(
        self, owner: Any, name: str, label: str, around: Around, *, opaque: bool = False
    ) -> None:
        original = vars(owner)[name]
        self.label = label
        self.active = True
        self._owner, self._name, self._original = owner, name, original

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self.active:
                return original(*args, **kwargs)
            return around(original, args, kwargs)

        self._wrapper = keep_untraced(wrapper) if opaque else wrapper
        setattr(owner, name, wrapper)

    def restore(self) -> None:
        """Put the original back, if the wrapper is still on top; else only stop to look."""
        self.active = False
        if vars(self._owner).get(self._name) is self._wrapper:
            setattr(self._owner, self._name, self._original)


class SharedPatch(Generic[ListenerT]):
    """
    One patch for the whole process: the first listener puts it up, the last one takes it away. Thread-safe: the weak
    references to them are only replaced together, never changed, for calls may run through them at any time.
    """

    def __init__(
        self, owner: Any, name: str, label: str, around: Around, *, opaque: bool = False
    ) -> None:
        self._make = functools.partial(Patch, owner, name, label, around, opaque=opaque)
        self._lock = threading.Lock()
        self._references: tuple[ref[ListenerT], ...] = ()
        self._patch: Patch | None = None
        self._passing: WeakSet[ListenerT] = WeakSet()

    @property
    def listeners(self) -> tuple[ListenerT, ...]:
        """Those who hold it now."""
        return tuple(each for one in self._references if (each := one()) is not None)

    def hold(self, listener: ListenerT) -> None:
        """One listener more, if it is none already."""
        with self._lock:
            self._keep([*self._others(listener), listener])
            if self._patch is None:
                self._patch = self._make()
            self._patch.active = True

    def pass_over(self, listener: ListenerT, passed: bool) -> None:
        """Whether the listener need not be told: while none need be, calls are only passed through."""
        with self._lock:
            (self._passing.add if passed else self._passing.discard)(listener)
            if self._patch is not None:
                self._patch.active = any(each not in self._passing for each in self.listeners)

    def release(self, listener: ListenerT) -> None:
        """One listener less."""
        with self._lock:
            self._passing.discard(listener)
            self._keep(self._others(listener))
            if not self._references and self._patch is not None:
                self._patch.restore()
                self._patch = None

    def touched(self, listener: ListenerT) -> list[str]:
        """What is replaced for this listener."""
        patch = self._patch if any(each is listener for each in self.listeners) else None
        return [] if patch is None else [patch.label]

    def _others(self, listener: ListenerT) -> list[ListenerT]:
        return [other for other in self.listeners if other is not listener]

    def _keep(self, listeners: list[ListenerT]) -> None:
        self._references = tuple(ref(each) for each in listeners)
