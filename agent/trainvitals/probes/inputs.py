"""
What the root of a data parallel model was called with: a digest of a few elements, so that ranks can be compared.

Only DDP wrappers and FSDP2 roots get a hook: nobody scripts, pickles or copies them, as plain models are, and their
calls are where a batch enters. The hook is on the wrapper, never on what it wraps.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trainvitals.batch_digest import digest_of
from trainvitals.layout import is_dtensor
from trainvitals.probes.probe import Guarded, Look, Probe, Rested
from trainvitals.record import Record
from trainvitals.replicas import group_of

BURST_STEPS = 64
REST_STEPS = 192
"""So many steps in a row are looked at, and again after a rest: the same on all ranks."""
UNKNOWN = -1

_Row = dict[str, int]
"""Of the table, by column."""


class Inputs(Probe):
    """
    One pre-hook per root, from the first step on. A call costs 15 us at the first of a step in a burst, else 1 us;
    tensors that are not in the host's memory are not read, for that would wait for a device.
    """

    name = "inputs"

    def __init__(self) -> None:
        self._hooks: list[_Hook] = []
        self._first_step = -1
        self._step = -1
        self._rested: list[_Row] = []

    def before_step(self, look: Look) -> None:
        """A row for the calls since the step before."""
        if look.slots.world_size == 1:
            return
        if self._first_step < 0:
            self._first_step = look.step
            self._hooks = [_Hook(*root, self.guarded) for root in _roots(look)]
        _tell(look.record, self._rows(look.step))

    def rest(self, step: int) -> None:
        """The same, for later: each rank rests when it has to, and steps are compared that all have told of."""
        self._rested += self._rows(step)

    def is_idle(self) -> bool:
        """No root has a hook."""
        return not self._hooks

    def after_rests(self, record: Record, rested: Rested) -> None:  # noqa: ARG002
        """The rows of rests."""
        rows, self._rested = self._rested, []
        _tell(record, rows)

    def _rows(self, step: int) -> list[_Row]:
        """The row of a step, in bursts; calls are counted anew from here on."""
        if not self._hooks or step == self._step:  # a second optimizer's
            return []
        self._step = step
        rows = [hook.take() for hook in self._hooks] if self._is_on(step) else []
        for hook in self._hooks:
            hook.reads = self._is_on(step + 1)
        if not rows:
            return []
        return [{**rows[0], "unsynced": max(row["unsynced"] for row in rows), "step": step}]

    def touched(self) -> list[str]:
        """The modules that have a hook."""
        return [f"{hook.what}: forward pre-hook" for hook in self._hooks if hook.is_there]

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _is_on(self, step: int) -> bool:
        return (step - self._first_step) % (BURST_STEPS + REST_STEPS) <= BURST_STEPS


class _Hook:
    """The hook of one root, and what it saw since the step before."""

    def __init__(self, root: nn.Module, ranks: tuple[int, ...], guarded: Guarded) -> None:
        self.what = type(root).__name__
        self.reads = True
        self._calls = UNKNOWN
        self._digest = 0
        self._guarded = guarded
        self._root = weakref.ref(root)
        self._ranks = ranks
        # Dynamo traces a hook of a module that is compiled from outside: `is_compiling()` is a constant there, and
        # nothing of the hook is left in the graph.
        self._handle = root.register_forward_pre_hook(self._called, with_kwargs=True)

    @property
    def is_there(self) -> bool:
        """Whether its root is."""
        return self._root() is not None

    def take(self) -> dict[str, int]:
        """The columns of facts.INPUTS, counted from now on anew."""
        root = self._root()
        inner = None if root is None else _compiled_of(root)
        synced = getattr(inner or root, "require_backward_grad_sync", True)
        row = {
            "input_digest": self._digest,
            "calls": self._calls,
            "unsynced": int(not synced),
            "group_first": min(self._ranks),
            "group_size": len(self._ranks),
        }
        self._calls = self._digest = 0
        return row

    def remove(self) -> None:
        """Take the hook away."""
        self._handle.remove()

    def _called(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if not torch.compiler.is_compiling() and self.reads and torch.is_grad_enabled():
            self._guarded("inputs", self._read, args, kwargs)

    def _read(self, args: Any, kwargs: Any) -> None:
        if torch._C._get_tracing_state() is not None:
            return
        self._calls += 1
        if self._calls == 1:
            self._digest = digest_of((args, kwargs))


def _tell(record: Record, rows: list[_Row]) -> None:
    if rows:
        record.add("inputs", **{name: [row[name] for row in rows] for name in rows[0]})


def _roots(look: Look) -> Iterable[tuple[nn.Module, tuple[int, ...]]]:
    """DDP wrappers, and FSDP2 roots on a mesh of one dim: each rank is to be given data of its own."""
    wrappers = look.slots.replicas.wrappers
    # A wrapper that was compiled is called through the module that torch.compile made of it.
    around = {id(inner): model for model in look.slots.models if (inner := _compiled_of(model))}
    for wrapper in wrappers:
        ranks = group_of(wrapper)
        if len(ranks) > 1 and wrapper._compiled_call_impl is None:
            yield around.get(id(wrapper), wrapper), ranks
    if wrappers:
        return
    for model in look.slots.models:
        ranks = _fsdp_ranks(model)
        if len(ranks) > 1 and model._compiled_call_impl is None:
            yield model, ranks


def _compiled_of(model: nn.Module) -> nn.Module | None:
    return model._modules.get("_orig_mod")


def _fsdp_ranks(model: nn.Module) -> tuple[int, ...]:
    """The ranks over which fully_shard cut the model; none if its parameters are also cut otherwise."""
    if not any(each.__name__ == "FSDPModule" for each in type(model).__mro__):
        return ()
    meshes: list[Any] = [
        parameter.device_mesh if is_dtensor(parameter) else None  # type: ignore[attr-defined]
        for parameter in model.parameters()
    ]
    first = meshes[0] if meshes else None
    if first is None or first.ndim != 1 or any(mesh != first for mesh in meshes):
        return ()
    return tuple(first.mesh.flatten().tolist())
