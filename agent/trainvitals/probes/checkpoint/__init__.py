"""
Checkpoints: what was saved and loaded, seen from inside the call, beside what was live at that moment.

    checkpoints.py  the probe: an agent's saves and loads as events and manifests
    watch.py        one watch for the process: who holds the patches, who is told of a call
    targets.py      the functions that are patched, and what a call of each means
    journal.py      loads that happened before anybody attached
    handed.py       the tensors in what was handed over, and which attached tensor each of them is
    manifest.py     one save's or load's entries and numbers
    reading.py      the part of a tensor that this rank holds, and its digest
    remembered.py   what live tensors were earlier: stale entries
    pace.py         how often, where there are very many
"""

from trainvitals.probes.checkpoint.checkpoints import Checkpoints
from trainvitals.probes.checkpoint.targets import WATCH

__all__ = ["WATCH", "Checkpoints"]
