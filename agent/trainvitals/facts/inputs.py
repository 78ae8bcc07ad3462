"""
Facts about the data that a training is given.
"""

from __future__ import annotations

from trainvitals.facts.table import Column, Merge, Table

WORKER_ROUNDS = Table(
    name="worker_rounds",
    help="What the workers of a DataLoader gave in the first rounds of an iteration over a data set that is iterated over; "
    "told once an iteration.",
    keys=("step",),
    columns=(
        Column(name="workers", dtype="int64", merge=Merge.MAX, help="how many workers there are"),
        Column(
            name="rounds",
            dtype="int64",
            merge=Merge.MAX,
            help="rounds compared, in each of which every worker gave one batch",
        ),
        Column(
            name="alike",
            dtype="int64",
            merge=Merge.MAX,
            help="rounds in which all of them gave the same batch, and another one than in the round before",
        ),
    ),
)

DRAWS = Table(
    name="draws",
    help="Batches of DataLoaders that were all begun anew since the step before, and gave what they gave before that.",
    keys=("step",),
    columns=(
        Column(
            name="repeats",
            dtype="int64",
            merge=Merge.MAX,
            help="how often in a row the batches of a step were again those of the one before; never 0",
        ),
        Column(
            name="drawn", dtype="int64", merge=Merge.MAX, help="batches drawn since the step before"
        ),
        Column(
            name="batches",
            dtype="int64",
            merge=Merge.MIN,
            help="batches that the loader has, of several the shortest; more than were drawn",
        ),
    ),
)
