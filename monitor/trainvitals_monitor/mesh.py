"""
The mesh that a run's ranks are placed on, as they say it: shown, and nothing is judged by it.
"""

from __future__ import annotations

import re
from typing import Any

from trainvitals_monitor.history import AttemptHistory

_PLACE = re.compile(r"(\w+)=(\d+)/(\d+)")
"""As agents write it, one an axis: name, coordinate, size."""


def mesh_of(attempt: AttemptHistory) -> dict[str, Any]:
    """
    `axes`: their sizes by name, in the order in which the lowest rank names them; `ranks`: by number, the coordinates of
    each on these. {} where no rank has said where it is.
    """
    axes: dict[str, int] = {}
    ranks: dict[str, dict[str, int]] = {}
    for number, rank in sorted(attempt.ranks.items()):
        places = _PLACE.findall(rank.mesh)
        for name, _, size in places:
            axes[name] = max(int(size), axes.get(name, 0))
        if places:
            ranks[str(number)] = {name: int(place) for name, place, _ in places}
    return {"axes": axes, "ranks": ranks} if ranks else {}


def shape_text(mesh: dict[str, Any]) -> str:
    """The axes for people: "dp 2 x tp 4"."""
    return " x ".join(f"{name} {size}" for name, size in mesh.get("axes", {}).items())
