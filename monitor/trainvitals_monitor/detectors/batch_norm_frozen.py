"""
The detector batch-norm-frozen: running statistics that stand still although their module trains, in train mode.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.detectors.modes import modes_of, norm_modules
from trainvitals_monitor.detectors.stretch import look_back, stretch_of
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class BatchNormFrozen(Detector):
    """
    Detects:
        A batch norm in train mode whose weight has a gradient and moves, while none of its running statistics (mean,
        variance, the count of batches) changes at any look.

    Why it matters:
        The model is evaluated, saved and shipped with statistics of another model: good in training, wrong in use.

    Known causes:
        The forward pass runs through a copy (`functional_call` with copied buffers, a replica, a module that was
        rebuilt after the parameters were shared); code that restores the buffers after each step; statistics switched
        off for one of several passes and never on again (https://github.com/takerum/vat_tf/issues/6).

    Fix:
        Make sure that the module whose statistics are saved is the one that runs the training batches.

    Misses:
        Batch norms in eval mode (a choice, or eval-mode-in-training), or with `track_running_stats` switched off; those without a weight; a momentum of 0, at which
        the count of batches still moves.
    """

    name = "batch-norm-frozen"
    family = "modes"
    severity = Severity.WARNING
    summary = "Running statistics stand still although their batch norm trains in train mode."
    reads = ("changed", "with_gradient", "ModesSeen", "OptimizersSeen", "lr")
    alert = Alert(hold="5m", summary="A batch norm's running statistics do not move")
    thresholds = (
        Threshold(
            name="looks",
            default=8,
            unit="looks at each of its statistics, and at its weight",
            reason="the count of batches moves at every forward pass in train mode; a few looks more are for safety",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        modes, norms = modes_of(view), norm_modules(view)
        if (
            modes is None
            or not norms.names
            or not (view.now("changed")[norms.statistic] == 0).any()
        ):
            return
        suspects = np.flatnonzero(norms.number >= 0)
        changed, seen = look_back(view, "changed", _WINDOW, suspects)
        gradient, _ = look_back(view, "with_gradient", _WINDOW, suspects)
        number, statistic = norms.number[suspects], norms.statistic[suspects]
        with np.errstate(invalid="ignore"):
            still = stretch_of(changed == 0, seen, view.window_steps(_WINDOW))
            moves = ((changed > 0) & (gradient > 0)).sum(axis=0)
        enough = self.value("looks")
        count = len(norms.names)
        unmoved = np.bincount(number, (still.looks >= enough) & statistic, count)
        statistics = np.bincount(number, statistic, count)
        trains = (view.tensors.trainable & view.held & (view.lr > 0))[suspects]
        moving = np.bincount(number, trains & ~statistic & (moves >= enough), count)
        asleep = modes.since[suspects] >= 0
        asleep |= np.isin(suspects, modes.last.untracked)
        awake = np.bincount(number, asleep, count) == 0
        frozen = awake & (moving > 0) & (unmoved == statistics)
        chosen = frozen[number] & statistic
        if not chosen.any():
            return
        yield Claim(
            tensors=suspects[chosen],
            message="{fqn} has not changed at {looks} looks since step {still_step}, although its batch norm is in "
            "train mode and its weight is trained.",
            advice="See whether the module that runs the training batches is the one whose statistics are kept.",
            evidence={
                "looks": still.looks[chosen],
                "still_step": still.first_step[chosen],
            },
            first_step=still.first_step[chosen],
            last_good_step=still.last_good_step[chosen],
        )
