"""
The probes, one file a kind of fact, in the order they run. Adding one: a file here, and a line in PROBES.

The checkpoint probe and the log of the trainer's own numbers are called from elsewhere too, so the agent makes them
itself: `checkpoint.Checkpoints` and `loss.Log`.
"""

from __future__ import annotations

from trainvitals.probes.backward import Backward
from trainvitals.probes.beginnings import Beginnings
from trainvitals.probes.codebooks import Codebooks
from trainvitals.probes.decays import Decays
from trainvitals.probes.draws import Draws
from trainvitals.probes.gradients import Gradients
from trainvitals.probes.identity import Identity
from trainvitals.probes.inputs import Inputs
from trainvitals.probes.kept import KeptGradients
from trainvitals.probes.modes import Modes
from trainvitals.probes.moments import Moments
from trainvitals.probes.optimizers import Optimizers
from trainvitals.probes.probe import Probe
from trainvitals.probes.routing import Routing
from trainvitals.probes.unregistered import Unregistered
from trainvitals.probes.updates import Updates
from trainvitals.probes.values import Sweeps, Values

# Identity before Optimizers: a parameter that was replaced in a group and in the model is known by then.
# Optimizers before the others: it makes their holdings known to them.
PROBES: tuple[type[Probe], ...] = (
    Identity,
    Optimizers,
    Moments,
    Decays,
    Modes,
    Gradients,
    KeptGradients,
    Routing,
    Codebooks,
    Values,
    Updates,
    Beginnings,
    Sweeps,
    Inputs,
    Unregistered,
    Draws,
    Backward,
)

__all__ = ["PROBES"]
