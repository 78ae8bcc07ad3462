"""
docs/facts.md, from the agent's tables of facts.
"""

from __future__ import annotations

from trainvitals.facts import KEY_DTYPES, MADE_TABLES, TABLES, Table
from trainvitals_monitor.generate.markdown import GENERATED, table

_INTRODUCTION = """
# Facts

What a frame can say, table by table: a column `values.norm` of a frame is the column `norm` of the table `values`.
Each row is about its table's keys. A row that is absent was not looked at; NaN means that NaN was computed. "ranks"
says how the parts that ranks hold of one tensor make up the fact about the full tensor.

"""

_MADE = """
# What the monitor makes of several ranks' facts

These tables are in no frame; their columns are series like the others.

"""


def facts_page() -> str:
    """The page's text."""
    sent = "\n".join(_section(each) for each in TABLES)
    made = "\n".join(_section(each) for each in MADE_TABLES)
    return GENERATED.format(source="trainvitals/facts") + _INTRODUCTION + sent + _MADE + made


def _section(facts: Table) -> str:
    keys = ", ".join(f"`{key}` ({KEY_DTYPES[key]})" for key in facts.keys)
    rows = [
        (f"`{column.name}`", column.dtype, column.merge.value, column.help)
        for column in facts.columns
    ]
    columns = table(("column", "dtype", "ranks", "meaning"), rows)
    return f"## {facts.name}\n\n{facts.help} Keys: {keys}.\n\n{columns}"
