"""
What happened, as against what was measured: events go in a frame's header, whole, and are few.

An event's `kind` is its name on the wire. Add one here, to `Event`, and it travels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SlotChanged:
    """
    A slot no longer holds what it held at the last look. `changes` names what differs:
    object, storage, dtype, device, shape, trainable, version (the version counter stood still or went back while
    the value changed), lost (nothing is there any more), added (a new slot).
    `before` and `after` describe dtype, shape and device for people. `untied`: tensors that shared the object that
    was there, and do not share the one that is there now. `outlived`: of a buffer that was replaced before too, the step
    in which the oldest one was that somebody still holds, while most that came after it are freed; -1: none.
    """

    kind: Literal["slot"] = "slot"
    tensor: int
    step: int
    changes: list[str]
    before: str = ""
    after: str = ""
    untied: list[int] = field(default_factory=list)
    outlived: int = -1


@dataclass(frozen=True, kw_only=True)
class ForeignParameter:
    """A parameter that an optimizer holds and no attached model does."""

    group: int
    shape: list[int]
    dtype: str
    has_gradient: bool


@dataclass(frozen=True, kw_only=True)
class OptimizersSeen:
    """
    Which optimizers there are, and which tensors each holds. Sent at the first step, and when it changes.

    `optimizers` are class names; parameter groups are counted through all of them: group g belongs to optimizer
    `group_optimizer[g]` and holds `group_tensors[g]`. `masters`: the optimizer holds fp32 clones of the model's
    parameters (mixed precision with master weights), mapped back to the model's tensors. `default_lr`: by optimizer,
    the learning rate that its groups get where none of their own was given; empty: not told. `carries`: some optimizer
    keeps, in its state of a parameter, that parameter in full precision or what rounding took of it (Kahan summation).
    """

    kind: Literal["optimizers"] = "optimizers"
    step: int
    optimizers: list[str]
    group_optimizer: list[int]
    group_tensors: list[list[int]]
    foreign: list[ForeignParameter] = field(default_factory=list)
    masters: bool = False
    carries: bool = False
    default_lr: list[float | None] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class CheckpointSeen:
    """
    The manifest of one save, or of one load, seen from inside the call. Its numbers are rows of the table "manifest".

    `api` is the function that was called, `path` where to if it says so, `number` counts saves and loads of this
    rank's attempt. `keys` are the raw keys handed over, `tensors` the index of the attached tensor each belongs to
    (-1: none), `dtypes` and `shapes` as handed over. `live_keys`: per entry, the name that the attached model's
    `state_dict()` would give that tensor now ("": none of ours). `failed`: the call raised. For a load, `missing` and `unexpected` are what it reported, and
    `foreign` says that it went into a model that is not attached. `is_model`: the keys are a model's state (and not an
    optimizer's, a scheduler's, or one tensor). `has_optimizer`: a save that holds moments of an optimizer, be it beside
    the model's state or alone (then `keys` is empty). `unregistered`: tensors that a save has of those that modules hold
    without having them registered, by the names of UnregisteredSeen.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    number: int
    op: Literal["save", "load"]
    api: str
    step: int
    path: str = ""
    keys: list[str] = field(default_factory=list)
    tensors: list[int] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    live_keys: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    failed: bool = False
    foreign: bool = False
    is_model: bool = True
    has_optimizer: bool = False
    unregistered: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ModesSeen:
    """
    Which modules were in eval mode when their parameters' gradients were used. Sent at the first step, and when
    another state has lasted for some looks; it began with step `since`. And, not `settled`, at the first look that sees
    another one than was sent: until the next event that is settled, modes are unknown.

    `modules`, `evaluating`: modules that own tensors, and those of them in eval mode. `dropouts`: modules that drop
    something out in train mode. `tensors`: those of the modules in eval mode (at most 16,384); `untracked`: those of batch
    norms that have been told not to track running statistics. `dropout_rates`: of the modules that drop out, as often as
    they occur (at most 256), ascending; `dropout_rates_before`: the same at the look before some of them became 0 or
    ceased to be it, empty if none has.
    """

    kind: Literal["modes"] = "modes"
    step: int
    since: int
    settled: bool = True
    modules: int
    evaluating: int
    dropouts: int = 0
    dropouts_evaluating: int = 0
    batch_norms: int = 0
    batch_norms_evaluating: int = 0
    tensors: list[int] = field(default_factory=list)
    untracked: list[int] = field(default_factory=list)
    dropout_rates: list[float] = field(default_factory=list)
    dropout_rates_before: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StepsAttempted:
    """
    Steps that a gradient scaler was asked for, some of which it skipped; `step` is the last one that was made.

    `attempts` and `skipped` count since the agent was attached, `recent` and `recent_skipped` the last few of them.
    `scale_falls`: whether the scale is smaller than at the first of these; None: it can't be read without waiting.
    """

    kind: Literal["attempts"] = "attempts"
    step: int
    attempts: int
    skipped: int
    recent: int
    recent_skipped: int
    scale_falls: bool | None = None


@dataclass(frozen=True, kw_only=True)
class UnregisteredTensor:
    """
    A tensor that a module holds without having it registered, and what was seen of it since the agent was attached.

    `module`: the class that it hangs on. `held`: an optimizer of the attached model has it. `evaluating`: that module is
    in eval mode. `from_start`: it was there, in this shape, at attach. `looks`: steps at which its values were compared
    with the step before; `moves`: at how many they differed; `gradients`: at how many it had a new gradient. `drift`:
    mean squared distance over two steps, divided by that over one: 1 for values drawn anew each time, about 2 and more
    for what goes on from where it was; 0: unknown.
    """

    fqn: str
    module: str
    shape: list[int]
    dtype: str
    trainable: bool
    held: bool
    evaluating: bool
    from_start: bool
    looks: int
    gradients: int
    moves: int
    drift: float


@dataclass(frozen=True, kw_only=True)
class UnregisteredSeen:
    """Tensors that modules hold as plain attributes or in plain containers, and that move or get gradients (at most 64)."""

    kind: Literal["unregistered"] = "unregistered"
    step: int
    tensors: list[UnregisteredTensor] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ProbeFailed:
    """A probe raised and was switched off; training went on."""

    kind: Literal["probe-failed"] = "probe-failed"
    step: int
    probe: str
    error: str


Event = (
    SlotChanged
    | OptimizersSeen
    | CheckpointSeen
    | ModesSeen
    | StepsAttempted
    | UnregisteredSeen
    | ProbeFailed
)
