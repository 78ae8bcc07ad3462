"""
Facts about mixtures of experts: who gets the tokens, and which way a balancing bias moves.

Every rank counts its own tokens, which are a fair sample of all: the lowest rank speaks, and loads are not added up
(whether a counter already holds the sum over ranks is not to be seen).
"""

from __future__ import annotations

from trainvitals.facts.table import Column, Merge, Table

LOAD_LOOKS = 32
"""Loads and feeding are also told of so many of the last looks together."""


def _sample(name: str, dtype: str, text: str) -> Column:
    return Column(name=name, dtype=dtype, merge=Merge.MAX, help=text)


def _count(name: str, text: str) -> Column:
    """Stacked weights may be sharded by experts: their counts add up."""
    return Column(name=name, dtype="int64", merge=Merge.SUM, help=text)


ROUTING = Table(
    name="routing",
    help="The load of a router's experts, from its token counter (the tensor), read before the step.",
    columns=(
        _sample("experts", "int64", "how many experts there are"),
        _sample("chosen", "int64", "experts a token, as the module says; 1 if it does not"),
        _sample(
            "effective_experts",
            "float64",
            "exp of the entropy of the shares of what was counted since the look before: equal loads give "
            "the number of experts",
        ),
        _sample(
            "busiest",
            "float64",
            "load of the busiest expert over that of the mean, of the same choices",
        ),
        _sample("recent_tokens", "float64", f"choices in the last {LOAD_LOOKS} looks"),
        _sample("recent_effective", "float64", "effective experts over these looks together"),
        _sample("unused", "int64", "experts that were not chosen once in these looks"),
    ),
)
FEEDING = Table(
    name="feeding",
    help="Which experts have a gradient, from stacked weights [experts, ...] (the tensor) or those of a list's experts "
    "(the first one's): one that was given no token has none.",
    columns=(
        _count("stacked", "how many experts there are"),
        _count("fed", "experts with a gradient that is not zero"),
        _count("unfed", f"experts that had none in any of the last {LOAD_LOOKS} looks"),
        _sample("usual_feeds", "float64", "looks of these in which the median expert had one"),
    ),
)
BALANCING = Table(
    name="balancing",
    help="Which way a balancing bias (the tensor) moved since the step before.",
    columns=(
        _sample(
            "follows",
            "float64",
            "correlation over the experts of the bias's change with their load, -1 to 1; where the load of the step "
            "and of the one before differ, the smaller one",
        ),
    ),
)
