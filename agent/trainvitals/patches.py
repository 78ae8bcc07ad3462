"""
Replacing functions of other libraries, and giving them back: the mechanics, with no idea of what is watched.

A patch uses the object that it replaced, so it adds to whatever was there before. When somebody else has patched on
top of it meanwhile, giving back would break their chain: the patch stays where it is and only passes calls through.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called instead of a function, with that function and the call's arguments; answers with the call's result."""


class Patch:
    """One attribute of a module or class, replaced by a wrapper that calls `around` while the patch is active."""

    def __init__(self, owner: Any, name: str, label: str, around: Around) -> None:
        original = vars(owner)[name]
        self.label = label
        self.active = True
        self._owner, self._name, self._original = owner, name, original

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self.active:
                return original(*args, **kwargs)
            return around(original, args, kwargs)

        self._wrapper = wrapper
        setattr(owner, name, wrapper)

    def restore(self) -> None:
        """Put the original back, if the wrapper is still on top; else only stop to look."""
        self.active = False
        if vars(self._owner).get(self._name) is self._wrapper:
            setattr(self._owner, self._name, self._original)
