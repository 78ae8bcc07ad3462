"""
Facts about mixtures of experts: who gets the tokens, and which way a balancing bias moves.

Every rank counts its own tokens. Where ranks declare that they share a router, they tell its loads expert by expert, and
the monitor adds them up; else the lowest rank speaks for all, as of a sample. Whether a counter already holds the sum over
ranks is not to be seen, and changes no share: how many choices there were is therefore taken from one rank.
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
    help="The load of a router's experts, from its token counter (the tensor), read before the step, or from what the router "
    "returned (its weight is the tensor then).",
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
EXPERT_LOADS = Table(
    name="expert_loads",
    help="Choices of one expert, by one of several ranks that share the router (the tensor, as in routing, which the "
    "monitor makes of this).",
    keys=("tensor", "expert", "step"),
    columns=(
        Column(
            name="choices", dtype="float64", merge=Merge.SUM, help="choices since the look before"
        ),
        Column(
            name="recent",
            dtype="float64",
            merge=Merge.SUM,
            help=f"choices in the last {LOAD_LOOKS} looks",
        ),
        Column(
            name="of_a_token", dtype="int64", merge=Merge.MAX, help="experts a token, 0: unknown"
        ),
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
