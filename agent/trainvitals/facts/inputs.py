"""
Facts about the data that a training is given.
"""

from __future__ import annotations

from trainvitals.facts.table import Column, Merge, Table

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
