"""
What a table of facts is: its keys, its columns, and how the parts that ranks hold make up the fact about the whole.
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
    "expert": "int32",  # its number within the router
    "entry": "int32",  # index into that checkpoint's keys
}
