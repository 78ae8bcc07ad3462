"""
Which module is part of which: the way from a model down to each of its modules, and which of them run compiled.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

from torch import nn

from trainvitals.alive import alive


class Tree:
    """
    The modules of some models. It holds them: make it, ask it, and drop it.

    A shared module counts where it is found first. Cost: 1 us a module.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self._above: dict[int, nn.Module | None] = {}
        self._names: dict[int, str] = {}
        for model in models:
            self._add(model)

    def _add(self, model: nn.Module) -> None:
        self._above.setdefault(id(model), None)
        for name, module in model.named_modules():
            self._names.setdefault(id(module), name)
            for part in module.children():
                self._above.setdefault(id(part), module)

    def name(self, module: nn.Module) -> str:
        """As `named_modules` has it; empty for a model itself."""
        return self._names.get(id(module), "")

    def way_to(self, module: nn.Module | None) -> list[nn.Module]:
        """The model, its part that the module is in, and so on down to the module; empty for one of no model."""
        way: list[nn.Module] = []
        while module is not None and id(module) in self._above:
            way.append(module)
            module = self._above[id(module)]
        return way[::-1]


def shared_way(one: Sequence[nn.Module], other: Sequence[nn.Module]) -> list[nn.Module]:
    """Where two ways run together."""
    both = takewhile(lambda pair: pair[0] is pair[1], zip(one, other, strict=False))
    return [module for module, _ in both]


class Compiled:
    """
    Which modules torch.compile runs, as far as it can be seen: wrapped, compiled in place, or in a wrapper that the
    models do not have as a part. A function that calls them may be compiled all the same.

    Cost of making one: nothing before somebody has imported Dynamo, then one pass over the interpreter's objects.
    """

    def __init__(self) -> None:
        module = sys.modules.get("torch._dynamo.eval_frame")
        self._wrapper: Any = getattr(module, "OptimizedModule", ())
        wrappers = alive(self._wrapper) if self._wrapper else []
        self._inner = {id(vars(each).get("_modules", {}).get("_orig_mod")) for each in wrappers}

    def runs(self, way: Iterable[nn.Module]) -> bool:
        """Whether the last module of this way runs inside a compiled graph."""
        return any(map(self._is_compiled, way))

    def _is_compiled(self, module: nn.Module) -> bool:
        forward = vars(module).get("forward")
        return (
            isinstance(module, self._wrapper)
            or module._compiled_call_impl is not None
            or id(module) in self._inner
            or hasattr(forward, "_torchdynamo_orig_callable")
        )
