"""
What is declared frozen, and whether a load may have written it.
"""

from __future__ import annotations

import numpy as np

from trainvitals.contract import matches
from trainvitals_monitor.detectors.detector import BoolArray
from trainvitals_monitor.history import View


def declared_frozen(view: View) -> BoolArray:
    """Which tensors `Contract(frozen=...)` names; made once per attempt."""
    return view.cached("declared frozen", lambda: _declared(view))


def _declared(view: View) -> BoolArray:
    patterns = view.contract.frozen
    if not patterns:
        return np.zeros(view.num_tensors, np.bool_)
    return np.array([matches(fqn, patterns) for fqn in view.tensors.fqn], np.bool_)


def loaded_meanwhile(view: View) -> bool:
    """Whether weights were loaded since the looks that this step's are compared with."""
    since = view.latest("since")
    known = since[np.isfinite(since)]
    start = view.step - max(int(known.max()) if len(known) else 1, 1)
    return any(load.step >= start and not load.foreign for load in view.checkpoints("load"))
