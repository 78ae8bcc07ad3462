"""
Facts about the run and its checkpoints: manifests, parameter groups, scalars, steps.
"""

from __future__ import annotations

from trainvitals.facts.state import DIGEST_COLUMNS
from trainvitals.facts.table import Column, Merge, Table

MANIFEST = Table(
    name="manifest",
    help="One entry of a checkpoint that was saved or loaded, and the live tensor at that moment.",
    keys=("checkpoint", "entry", "tensor", "step"),
    columns=(
        *DIGEST_COLUMNS,
        Column(
            name="live_digest",
            dtype="uint64",
            merge=Merge.SUM,
            help="digest of the live tensor, cast to the saved dtype: equal to `digest` if the save is true; "
            "of a load, taken after it (there `digest` is of the handed values cast to the live dtype)",
        ),
        Column(
            name="live_square_sum",
            dtype="float64",
            merge=Merge.SUM,
            help="of the live tensor's cores",
        ),
        Column(
            name="stale_step",
            dtype="int64",
            merge=Merge.MIN,
            help="the older step whose live cores the entry equals; -1: it equals none that is remembered",
        ),
    ),
)
GROUPS = Table(
    name="groups",
    help="Parameter groups of the optimizers at a step.",
    keys=("group", "step"),
    columns=(
        Column(name="lr", dtype="float64", merge=Merge.MAX, help="learning rate"),
        Column(
            name="weight_decay",
            dtype="float64",
            merge=Merge.MAX,
            help="the group's weight_decay; NaN: it has none that could be read",
        ),
    ),
)
BACKWARD_SCALAR = "backward_scalar"
"""Under this name the agent tells itself what `backward()` was called of. No "loss" in it, for it is scaled and divided."""
BACKWARD_CALLS = "backward_calls"
"""Under this name, how often `backward()` was called of a scalar since the step before, where that is more than once."""
SCALARS = Table(
    name="scalars",
    help="What the trainer logged (loss and the like), by name. As `backward_calls`, of how many scalars `backward()` was "
    "called since the step before, where there were several (microbatches, losses); as `backward_scalar`, their sum, which "
    "no detector uses, for it is scaled and divided as the trainer does.",
    keys=("scalar", "step"),
    columns=(Column(name="value", dtype="float64", merge=Merge.MAX, help="the value as logged"),),
)
STEPS = Table(
    name="steps",
    help="The step itself, on this rank.",
    keys=("step",),
    columns=(
        Column(
            name="time",
            dtype="float64",
            merge=Merge.MAX,
            help="wall clock at its end, Unix seconds",
        ),
        Column(name="seconds", dtype="float64", merge=Merge.MAX, help="time since the step before"),
        Column(
            name="agent_seconds",
            dtype="float64",
            merge=Merge.MAX,
            help="of which spent by the agent",
        ),
    ),
)
