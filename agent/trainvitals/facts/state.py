"""
Facts about what tensors hold: values, extremes, updates, digests.
"""

from __future__ import annotations

from trainvitals.facts.table import Column, Merge, Table

SKETCH_SIZE = 8
"""Signed sums that make up a sketch; the distance of two tensors is known from theirs to about 50 % (rms)."""
SKETCHES = tuple(f"sketch_{k}" for k in range(SKETCH_SIZE))
"""Their columns."""

_NORM = Merge.ROOT_SUM_SQUARES

VALUES = Table(
    name="values",
    help="What a tensor holds after the step.",
    columns=(
        Column(name="norm", dtype="float64", merge=_NORM, help="L2 norm of the tensor"),
        Column(
            name="nonfinite",
            dtype="int64",
            merge=Merge.SUM,
            help="elements that are NaN or infinite",
        ),
        Column(
            name="exact",
            dtype="uint8",
            merge=Merge.MIN,
            help="1: every element was read; 0: the cores only, norm scaled up to the tensor's size",
        ),
    ),
)
EXTREMES = Table(
    name="extremes",
    help="The smallest and largest element, and their sum: of watched tensors, and of small buffers, looked at whole.",
    columns=(
        Column(name="low", dtype="float64", merge=Merge.MIN, help="smallest element"),
        Column(name="high", dtype="float64", merge=Merge.MAX, help="largest element"),
        Column(
            name="total",
            dtype="float64",
            merge=Merge.SUM,
            help="sum of the elements; NaN for a tensor of over 1,024",
        ),
    ),
)
UPDATES = Table(
    name="updates",
    help="What changed between two looks at the same cores.",
    columns=(
        Column(
            name="update_norm",
            dtype="float64",
            merge=_NORM,
            help="L2 norm of the difference, scaled up from the cores to the tensor's size",
        ),
        Column(name="looked", dtype="int64", merge=Merge.SUM, help="elements compared"),
        Column(name="changed", dtype="int64", merge=Merge.SUM, help="elements whose bits changed"),
        Column(
            name="with_gradient",
            dtype="int64",
            merge=Merge.SUM,
            help="elements compared that had a non-zero gradient before the step",
        ),
        Column(
            name="lost",
            dtype="int64",
            merge=Merge.SUM,
            help="elements that had a non-zero gradient and did not change",
        ),
        Column(
            name="since",
            dtype="int64",
            merge=Merge.MAX,
            help="steps of the optimizer that holds the tensor (of any, for buffers) between the two looks",
        ),
    ),
)
DIGEST_COLUMNS = (
    Column(
        name="digest",
        dtype="uint64",
        merge=Merge.SUM,
        help="sum modulo 2^64 of mix(global index, element bits) over the cores",
    ),
    Column(name="count", dtype="int64", merge=Merge.SUM, help="elements in the digest"),
    Column(
        name="square_sum", dtype="float64", merge=Merge.SUM, help="sum of squares over the cores"
    ),
    *(
        Column(
            name=name,
            dtype="float64",
            merge=Merge.SUM,
            help=f"signed sum {k} of the cores' elements: differences of sketches estimate distances",
        )
        for k, name in enumerate(SKETCHES)
    ),
)
DIGESTS = Table(
    name="digests",
    help="A tensor's cores in few numbers, the same on any sharding: equal digests are equal bits.",
    columns=DIGEST_COLUMNS,
)
