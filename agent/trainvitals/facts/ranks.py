"""
Facts about ranks: what the replicas of a model were called with, and what the monitor makes of several ranks' facts.
"""

from __future__ import annotations

from trainvitals.facts.table import Column, Merge, Table

INPUTS = Table(
    name="inputs",
    help="What the root of a data parallel model (DDP, FSDP2) was called with since the step before, on this rank.",
    keys=("step",),
    columns=(
        Column(
            name="input_digest",
            dtype="uint64",
            merge=Merge.MAX,
            help="of up to 256 elements of each tensor of the first call with gradients on; 0: none could be read",
        ),
        Column(
            name="calls",
            dtype="int64",
            merge=Merge.MAX,
            help="calls with gradients on; -1: not counted yet",
        ),
        Column(
            name="unsynced",
            dtype="uint8",
            merge=Merge.MAX,
            help="1: DDP's no_sync() was on as the optimizer stepped",
        ),
        Column(
            name="group_first",
            dtype="int64",
            merge=Merge.MIN,
            help="lowest rank of the data parallel group",
        ),
        Column(
            name="group_size",
            dtype="int64",
            merge=Merge.MAX,
            help="ranks in it, which are to be given different inputs",
        ),
    ),
)

# What follows is never sent: the monitor makes these series of what the ranks say of one tensor at one step.
REPLICAS = Table(
    name="replicas",
    help="Digests of the ranks that hold the same part of a tensor, compared.",
    columns=(
        Column(name="replicas", dtype="int64", merge=Merge.SUM, help="ranks compared"),
        Column(
            name="replicas_declared",
            dtype="uint8",
            merge=Merge.MIN,
            help="1: the layout says that they hold the same; 0: their tensors only have one name and shape",
        ),
        Column(
            name="replicas_apart",
            dtype="int64",
            merge=Merge.SUM,
            help="ranks whose bits are not those of most (of the lowest, if no bits are those of most)",
        ),
        Column(
            name="replica_apart",
            dtype="int64",
            merge=Merge.MIN,
            help="the lowest rank that is apart; -1: none",
        ),
        Column(
            name="replica_like",
            dtype="int64",
            merge=Merge.MIN,
            help="the lowest rank that it was compared with",
        ),
        Column(
            name="replica_distance",
            dtype="float64",
            merge=Merge.MAX,
            help="largest distance from the others, as a part of the norm; estimated, to about 50 %",
        ),
    ),
)
GRADIENT_REPLICAS = Table(
    name="gradient_replicas",
    help="Gradient norms of the ranks that hold the same part of a tensor, compared.",
    columns=(
        Column(name="grad_replicas", dtype="int64", merge=Merge.SUM, help="ranks compared"),
        Column(
            name="grad_spread",
            dtype="float64",
            merge=Merge.MAX,
            help="largest less smallest norm, as a part of the largest",
        ),
        Column(
            name="grad_apart",
            dtype="int64",
            merge=Merge.MIN,
            help="the lowest rank whose norm is not that of the lowest rank compared; -1: none",
        ),
    ),
)
