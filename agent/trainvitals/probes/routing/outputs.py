"""
The load of routers that keep no counter, from what their modules return: a forward hook on each, where that is safe.

Touches `_forward_hooks` of these modules, from the first step on until `close`. A router inside a compiled model gets
no hook: Dynamo would trace it, or never call it. Where that can't be seen (a compiled function calls the model), the
hook finds that it is being traced, and leaves nothing in the graph, nor a guard: no graph, break or recompilation more
(measured, torch 2.13). Activation checkpointing calls a router twice: what is called within a backward pass does not
count, unless nothing else is called (reentrant checkpointing runs its first pass without gradients).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from trainvitals.capture import is_capturing
from trainvitals.probes.probe import Guarded
from trainvitals.probes.routing.choices import Choices
from trainvitals.routers import Router, routing_module
from trainvitals.slots import SlotTable
from trainvitals.tree import Compiled, Tree

Floats = npt.NDArray[np.float64]


class Outputs:
    """The hooks of one agent, by router."""

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded
        self._hooks: dict[Router, Hook] = {}
        self._compiled = 0

    def place(self, routers: Sequence[Router], slots: SlotTable) -> dict[Router, Hook]:
        """Hooks for those that have no counter, nor a hook yet; hooks of routers that are gone are taken off."""
        for gone in [each for each in self._hooks if each not in routers]:
            self._hooks.pop(gone).remove()
        bare = [one for one in routers if one.counter < 0 and one not in self._hooks]
        self._compiled = 0
        if bare:
            tree, compiled = Tree(slots.models), Compiled()
            for router in bare:
                module = routing_module(router, slots, tree)
                if module is None:
                    continue
                if compiled.runs(tree.way_to(module)):
                    self._compiled += 1
                else:
                    self._hooks[router] = Hook(module, tree.name(module), router, self)
        return self._hooks

    def called(self, hook: Hook, output: Any) -> None:
        """One of the hooks was called, on any thread."""
        self._guarded("router outputs", hook.count, output)

    def limits(self) -> list[str]:
        """Why there is no load of some routers."""
        told = []
        if self._compiled:
            told.append(
                f"{self._compiled} routers run in compiled graphs, where no hook is placed, and keep no counter: their loads "
                "are not known, but for experts without a gradient"
            )
        unread = [hook for hook in self._hooks.values() if hook.was_armed and not hook.has_counted]
        if unread:
            told.append(
                f"of {len(unread)} routers no choice was seen (they run in a compiled function, or return what can't be "
                "read): their loads are not known, but for experts without a gradient"
            )
        return told

    def touched(self) -> list[str]:
        """The modules that have a hook."""
        return [hook.what for hook in self._hooks.values() if hook.is_there]

    def close(self) -> None:
        """Take all hooks off; what they have not heard is still told."""
        for hook in self._hooks.values():
            hook.remove()


class Hook:
    """
    What a router's module calls with its output: changes nothing, waits for nothing.

    It keeps nothing of the agent alive. A copy of the model, by copy or pickle, gets a function of the standard
    library's in its place, which does nothing: no such file needs this package.
    """

    def __init__(self, module: nn.Module, name: str, router: Router, outputs: Outputs) -> None:
        self.what = f"module {name}: forward hook"
        self.was_armed = self.has_counted = False
        self._reads = False
        self._choices = Choices(router.experts, router.chosen, biased=router.bias >= 0)
        self._counts: torch.Tensor | None = None
        self._tokens = 0
        self._outputs = weakref.ref(outputs)
        self._module = weakref.ref(module)
        self._handle = module.register_forward_hook(self)

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> None:
        # `is_compiling()` is a constant to Dynamo, which then sees a hook that does nothing.
        if torch.compiler.is_compiling() or not self._reads or not torch.is_grad_enabled():
            return
        outputs = self._outputs()
        if outputs is not None:
            outputs.called(self, output)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (contextlib.nullcontext(), "__exit__")

    @property
    def is_there(self) -> bool:
        """Whether its module is, and has it."""
        module = self._module()
        return module is not None and self in module._forward_hooks.values()

    def arm(self, reads: bool) -> None:
        """Count from now on, from zero; or do not."""
        self._reads = reads
        self._tokens = 0

    def take(self) -> torch.Tensor | None:
        """What was counted, [experts]."""
        if not self._reads:
            return None
        self.was_armed = True
        if not self._tokens or self._counts is None:
            return None
        self.has_counted = True
        return self._counts[:-1].to(torch.float64)

    def count(self, output: Any) -> None:
        """One call more; on one core of a CPU 50 us for 512 tokens, 250 us for 16,384."""
        if self._tokens and torch._C._current_graph_task_id() != -1:
            return  # activation checkpointing runs it once more
        if torch._C._get_tracing_state() is not None or is_capturing():
            return
        # Selective checkpointing keeps results of operators in their order: ours must not be among them.
        with torch.no_grad(), torch._C._DisableTorchDispatch():
            counts = self._fresh(output)
            if counts is not None:
                self._tokens += self._choices.count(output, counts)

    def remove(self) -> None:
        """Take the hook off its module, and free the counts."""
        self._reads, self._counts = False, None
        self._handle.remove()

    def _fresh(self, output: Any) -> torch.Tensor | None:
        """The counts, on the output's device, zeroed when nothing is in them."""
        each = output if isinstance(output, (tuple, list)) else (output,)
        first = next((one for one in each if isinstance(one, torch.Tensor)), None)
        if first is None or first.is_meta:
            return None
        if self._counts is None or self._counts.device != first.device:
            self._counts = torch.zeros(
                self._choices.experts + 1, dtype=torch.int64, device=first.device
            )
        elif not self._tokens:
            self._counts.zero_()
        return self._counts
