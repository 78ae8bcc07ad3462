"""
Facts about vector quantizers: how many of their codes are in use.
"""

from __future__ import annotations

from trainvitals.facts.table import Column, Merge, Table

CODE_LOOKS = 32
"""Codes in use are also told of so many of the last looks together."""


def _sample(name: str, text: str) -> Column:
    """Every rank's data are a fair sample; where statistics are shared, all ranks say the same."""
    return Column(name=name, dtype="int64", merge=Merge.MAX, help=text)


CODES = Table(
    name="codes",
    help="Codes of a codebook that are in use: of one kept as averages, by its cluster sizes (the tensor), of one that is "
    "trained, by the rows of its gradient.",
    columns=(
        _sample("codes", "how many codes there are"),
        _sample("picked", "codes that were chosen since the look before"),
        _sample("picked_recently", f"codes that were chosen in any of the last {CODE_LOOKS} looks"),
        Column(
            name="memory_steps",
            dtype="float64",
            merge=Merge.MAX,
            help="steps in which the size of a code that is not chosen falls to 1/e of what it was; 0 for trained ones",
        ),
    ),
)
