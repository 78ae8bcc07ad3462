"""
Facts about the state that training starts from.
"""

from __future__ import annotations

from trainvitals.facts.table import Column, Merge, Table

BEGINNING = Table(
    name="beginning",
    help="What parameters hold before the attempt's first step, from the cores; told once.",
    columns=(
        Column(name="read", dtype="int64", merge=Merge.SUM, help="elements read"),
        Column(name="zeros", dtype="int64", merge=Merge.SUM, help="of which exactly zero"),
        Column(
            name="denormals",
            dtype="int64",
            merge=Merge.SUM,
            help="of which not zero and below the smallest normal number of float32",
        ),
        Column(
            name="squares",
            dtype="float64",
            merge=Merge.SUM,
            help="sum of squares of the finite ones",
        ),
        Column(name="largest", dtype="float64", merge=Merge.MAX, help="largest finite magnitude"),
    ),
)
ROWS = Table(
    name="rows",
    help="Parameters whose rows were all the same before the first step, and at every step since.",
    columns=(
        Column(
            name="rows_alike",
            dtype="int64",
            merge=Merge.MIN,
            help="rows compared (along dim 0, spread over it) that are equal bit for bit",
        ),
    ),
)
