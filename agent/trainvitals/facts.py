"""
What can be said of a training run: the tables of facts, their columns, and how ranks' parts add up.

This is the one place that knows every statistic. The agent fills these columns, the frame carries them, the history
keeps them, detectors and metrics read them by name. A fact is a measurement, never a verdict.

Every table of tensors has two further columns, `tensor` (int32, the index in the rank's tensor table) and `step`
(int64). A row that is absent was not looked at; NaN means that NaN was computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Merge(str, Enum):
    """How the parts that ranks hold of one tensor make up the fact about the full tensor."""

    SUM = "sum"
    """Parts add up (counts; digests modulo 2^64; sums)."""
    ROOT_SUM_SQUARES = "root-sum-squares"
    """Parts are norms: the square root of the sum of their squares."""
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One statistic: its numpy dtype on the wire, how ranks merge, and what it means (with its unit)."""

    name: str
    dtype: str
    merge: Merge
    help: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """
    Facts that are measured together.

    `keys` are the integer columns that say what a row is about: a tensor, a parameter group, a scalar, or a step.
    """

    name: str
    help: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...] = ("tensor", "step")

    def dtype_of(self, column: str) -> str:
        """The numpy dtype of a key or value column; KeyError for a column that the table does not have."""
        if column in self.keys:
            return KEY_DTYPES[column]
        for candidate in self.columns:
            if candidate.name == column:
                return candidate.dtype
        raise KeyError(f"table {self.name!r} has no column {column!r}")


KEY_DTYPES = {
    "tensor": "int32",
    "step": "int64",
    "group": "int32",  # index into the attempt's parameter groups, all optimizers counted through
    "scalar": "int32",  # index into the header's scalar names
    "checkpoint": "int32",  # the number of the save or load within this rank's attempt
    "entry": "int32",  # index into that checkpoint's keys
}

SKETCH_SIZE = 8
"""Signed sums that make up a sketch; the distance of two tensors is known from theirs to about 50 % (rms)."""

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
    help="The smallest and largest element: of watched tensors, and of small tensors looked at whole.",
    columns=(
        Column(name="low", dtype="float64", merge=Merge.MIN, help="smallest element"),
        Column(name="high", dtype="float64", merge=Merge.MAX, help="largest element"),
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
GRADIENTS = Table(
    name="gradients",
    help="Gradients as the optimizer is about to use them (read before the step).",
    columns=(
        Column(
            name="grad_norm",
            dtype="float64",
            merge=_NORM,
            help="L2 norm of the gradient; 0 if missing",
        ),
        Column(
            name="grad_missing",
            dtype="uint8",
            merge=Merge.MIN,
            help="1: .grad was None before the step",
        ),
    ),
)
COUNTERS = Table(
    name="counters",
    help="The optimizer's own step counter for a parameter (Adam's bias correction uses it).",
    columns=(
        Column(
            name="optimizer_step",
            dtype="int64",
            merge=Merge.MAX,
            help="state['step'] of the parameter",
        ),
    ),
)
MOMENTS = Table(
    name="moments",
    help="What the optimizer remembers of a parameter's gradients, looked at now and then.",
    columns=(
        Column(
            name="first_moment",
            dtype="float64",
            merge=_NORM,
            help="L2 norm of exp_avg or momentum_buffer, scaled up from the cores; 0 if there is none",
        ),
        Column(
            name="second_moment",
            dtype="float64",
            merge=_NORM,
            help="L2 norm of exp_avg_sq or square_avg, scaled up from the cores; 0 if there is none",
        ),
        Column(
            name="moment_bits",
            dtype="int64",
            merge=Merge.MIN,
            help="width of the narrowest floating dtype among them",
        ),
    ),
)
KEPT = Table(
    name="kept",
    help="Gradients of a few parameters that are, at two steps in a row, the same tensors as at the step before.",
    columns=(
        Column(
            name="writes",
            dtype="int64",
            merge=Merge.MAX,
            help="writes in place since the step before, as the tensor's version counts them",
        ),
        Column(
            name="kept_dot",
            dtype="float64",
            merge=Merge.SUM,
            help="product of the gradient with that of the step before, over the cores",
        ),
        Column(
            name="kept_before",
            dtype="float64",
            merge=Merge.SUM,
            help="sum of squares of the gradient of the step before, over the cores",
        ),
        Column(
            name="kept_square",
            dtype="float64",
            merge=Merge.SUM,
            help="sum of squares of the gradient, over the cores",
        ),
    ),
)
_DIGEST_COLUMNS = (
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
            name=f"sketch_{k}",
            dtype="float64",
            merge=Merge.SUM,
            help=f"signed sum {k} of the cores' elements: differences of sketches estimate distances",
        )
        for k in range(SKETCH_SIZE)
    ),
)
DIGESTS = Table(
    name="digests",
    help="A tensor's cores in few numbers, the same on any sharding: equal digests are equal bits.",
    columns=_DIGEST_COLUMNS,
)
MANIFEST = Table(
    name="manifest",
    help="One entry of a checkpoint that was saved or loaded, and the live tensor at that moment.",
    keys=("checkpoint", "entry", "tensor", "step"),
    columns=(
        *_DIGEST_COLUMNS,
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
    columns=(Column(name="lr", dtype="float64", merge=Merge.MAX, help="learning rate"),),
)
SCALARS = Table(
    name="scalars",
    help="What the trainer logged (loss and the like), by name.",
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

_SERIES_TABLES = (VALUES, EXTREMES, UPDATES, GRADIENTS, COUNTERS, MOMENTS, KEPT)
TENSOR_TABLES: tuple[Table, ...] = (*_SERIES_TABLES, DIGESTS)
TABLES: tuple[Table, ...] = (*TENSOR_TABLES, MANIFEST, GROUPS, SCALARS, STEPS)
TABLE_BY_NAME = {table.name: table for table in TABLES}

# The statistics that are kept as series per tensor; digests are looked up by step instead.
SERIES: tuple[Column, ...] = tuple(column for table in _SERIES_TABLES for column in table.columns)
SERIES_TABLE = {column.name: table for table in _SERIES_TABLES for column in table.columns}
