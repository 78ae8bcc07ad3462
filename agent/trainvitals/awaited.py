"""
Being told when a library has been imported, without importing it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class AwaitedModules(MetaPathFinder):
    """
    Says when one of some modules has been imported, by standing first in `sys.meta_path` until then.

    For libraries that a trainer may import later, or never (importing torch.distributed.checkpoint for nothing would
    cost a second). It finds nothing by itself; the module's loader runs as always, and `imported` is called after it.
    """

    def __init__(self, names: Iterable[str], imported: Callable[[str], None]) -> None:
        self.names = set(names)
        self._imported = imported
        if self.names:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Leave `sys.meta_path`."""
        self.names.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, with a loader that tells us when it is done."""
        if fullname not in self.names:
            return None
        finders = list(sys.meta_path)
        # Only those behind us: two of our kind that await the same module would ask each other for ever.
        behind = finders[finders.index(self) + 1 :] if self in finders else []
        for finder in behind:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(fullname, path, target)
            if spec is not None:
                self._tell_after(spec)
                return spec
        return None

    def _tell_after(self, spec: ModuleSpec) -> None:
        loader: Any = spec.loader
        execute = getattr(loader, "exec_module", None)
        if execute is None or not hasattr(loader, "__dict__"):
            return

        def exec_module(module: ModuleType) -> None:
            # The loader is this spec's own, and is left as it was.
            vars(loader).pop("exec_module", None)
            execute(module)
            if spec.name in self.names:
                self.names.discard(spec.name)
                if not self.names:
                    self.stop()
                self._imported(spec.name)

        loader.exec_module = exec_module
