"""
What a router's loads say: the columns of facts.ROUTING, made by one rank of its own counts or by the monitor of all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def effective(load: Floats) -> float:
    """exp of the entropy of the shares: between 1 and the number of experts."""
    shares = load[load > 0] / load.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def routing_row(load: Floats, recent: Floats, chosen: int) -> dict[str, float]:
    """
    One row of ROUTING. `load`: choices since the look before, by expert, not all 0; `recent`: those of the last looks.
    """
    return {
        "experts": len(load),
        "chosen": max(chosen, 1),
        "effective_experts": effective(load),
        "busiest": float(load.max() / load.mean()),
        "recent_tokens": float(recent.sum()),
        "recent_effective": effective(recent),
        "unused": int((recent == 0).sum()),
    }
