"""
What can be said of a training run: the tables of facts, their columns, and how ranks' parts add up.

This is the one place that knows every statistic. The agent fills these columns, the frame carries them, the history
keeps them, detectors and metrics read them by name. A fact is a measurement, never a verdict.

Every table of tensors has two further columns, `tensor` (int32, the index in the rank's tensor table) and `step`
(int64). A row that is absent was not looked at; NaN means that NaN was computed.
"""

from __future__ import annotations

from trainvitals.facts.beginning import BEGINNING, ROWS
from trainvitals.facts.codebooks import CODE_LOOKS, CODES
from trainvitals.facts.inputs import DRAWS, WORKER_ROUNDS
from trainvitals.facts.ranks import GRADIENT_REPLICAS, INPUTS, REPLICAS
from trainvitals.facts.routing import BALANCING, EXPERT_LOADS, FEEDING, LOAD_LOOKS, ROUTING
from trainvitals.facts.run import BACKWARD_CALLS, BACKWARD_SCALAR, GROUPS, MANIFEST, SCALARS, STEPS
from trainvitals.facts.state import (
    DIGEST_COLUMNS,
    DIGESTS,
    EXTREMES,
    SKETCH_SIZE,
    SKETCHES,
    UPDATES,
    VALUES,
)
from trainvitals.facts.table import KEY_DTYPES, Column, Merge, Table
from trainvitals.facts.training import (
    COUNTERS,
    DECAYS,
    GRADIENTS,
    KEPT,
    MOMENT_SKETCH_SIZE,
    MOMENT_SKETCHES,
    MOMENTS,
)

_SERIES_TABLES = (
    VALUES,
    EXTREMES,
    UPDATES,
    GRADIENTS,
    COUNTERS,
    MOMENTS,
    DECAYS,
    KEPT,
    ROWS,
    ROUTING,
    FEEDING,
    BALANCING,
    CODES,
)
TENSOR_TABLES: tuple[Table, ...] = (*_SERIES_TABLES, DIGESTS, BEGINNING)
TABLES: tuple[Table, ...] = (
    *TENSOR_TABLES,
    EXPERT_LOADS,
    MANIFEST,
    GROUPS,
    SCALARS,
    STEPS,
    INPUTS,
    DRAWS,
    WORKER_ROUNDS,
)
TABLE_BY_NAME = {table.name: table for table in TABLES}

# Made by the monitor of what several ranks say; never sent.
MADE_TABLES: tuple[Table, ...] = (REPLICAS, GRADIENT_REPLICAS)

_KEPT_TABLES = (*_SERIES_TABLES, *MADE_TABLES)

# The statistics that are kept as series per tensor; digests are looked up by step instead.
SERIES: tuple[Column, ...] = tuple(column for table in _KEPT_TABLES for column in table.columns)
SERIES_TABLE = {column.name: table for table in _KEPT_TABLES for column in table.columns}

__all__ = [
    "BACKWARD_CALLS",
    "BACKWARD_SCALAR",
    "BALANCING",
    "BEGINNING",
    "CODES",
    "CODE_LOOKS",
    "COUNTERS",
    "DECAYS",
    "DIGESTS",
    "DIGEST_COLUMNS",
    "DRAWS",
    "EXPERT_LOADS",
    "EXTREMES",
    "FEEDING",
    "GRADIENTS",
    "GRADIENT_REPLICAS",
    "GROUPS",
    "INPUTS",
    "KEPT",
    "KEY_DTYPES",
    "LOAD_LOOKS",
    "MADE_TABLES",
    "MANIFEST",
    "MOMENTS",
    "MOMENT_SKETCHES",
    "MOMENT_SKETCH_SIZE",
    "REPLICAS",
    "ROUTING",
    "ROWS",
    "SCALARS",
    "SERIES",
    "SERIES_TABLE",
    "SKETCHES",
    "SKETCH_SIZE",
    "STEPS",
    "TABLES",
    "TABLE_BY_NAME",
    "TENSOR_TABLES",
    "UPDATES",
    "VALUES",
    "WORKER_ROUNDS",
    "Column",
    "Merge",
    "Table",
]
