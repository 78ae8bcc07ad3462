"""
Who gets the tokens in a mixture of experts.

    routing.py   the probe
    load.py      what a token counter says, whoever resets it when
    outputs.py   hooks on routers that have no counter
    choices.py   what a router's output says of its choices
    feeding.py   which experts have a gradient
"""

from __future__ import annotations

from trainvitals.probes.routing.routing import Routing

__all__ = ["Routing"]
