"""
The detector batch-norm-frozen: running statistics that stand still although their module trains, in train mode.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.detectors.modes import NormModules, modes_of, norm_modules
from trainvitals_monitor.detectors.stretch import look_back, stretch_of
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class BatchNormFrozen(Detector):
    """
    Detects:
        A batch norm in train mode whose weight has a gradient and moves, while at the same looks none of its running
        statistics (mean, variance, the count of batches) changes. Or one whose batches are counted while the mean is
        exactly 0 and the variance 1 as they were made: its momentum is 0.

    Why it matters:
        The model is evaluated, saved and shipped with statistics of another model: good in training, wrong in use.

    Known causes:
        The forward pass runs through a copy (`functional_call` with copied buffers, a replica, a module that was
        rebuilt after the parameters were shared); code that restores the buffers after each step; statistics switched
        off for one of several passes and never on again (https://github.com/takerum/vat_tf/issues/6). A momentum of 0,
        meant as in other libraries, where it is the share that is kept
        (https://github.com/svishwa/crowdcount-mcnn/issues/64).

    Fix:
        Make sure that the module whose statistics are saved is the one that runs the training batches.

    Misses:
        Batch norms in eval mode (a choice, or eval-mode-in-training), or with `track_running_stats` switched off; those without a weight; a momentum of 0
        that keeps statistics of a pre-training, as is done to freeze them.
    """

    name = "batch-norm-frozen"
    family = "modes"
    severity = Severity.WARNING
    summary = "Running statistics stand still although their batch norm trains in train mode."
    reads = ("changed", "norm", "exact", "with_gradient", "ModesSeen", "OptimizersSeen", "lr")
    alert = Alert(hold="5m", summary="A batch norm's running statistics do not move")
    thresholds = (
        Threshold(
            name="looks",
            default=8,
            unit="looks at each of its statistics, and at its weight",
            reason="the count of batches moves at every forward pass in train mode; a few looks more are for safety",
        ),
        Threshold(
            name="counted",
            default=3,
            unit="looks at which batches were counted",
            reason="one batch moves the mean off 0 and the variance off 1, unless it has no share at all",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        modes, norms = modes_of(view), norm_modules(view)
        if (
            modes is None
            or not modes.settled
            or not norms.names
            or not (view.now("changed")[norms.statistic] == 0).any()
        ):
            return
        suspects = np.flatnonzero(norms.number >= 0)
        changed, seen = look_back(view, "changed", _WINDOW, suspects)
        gradient, _ = look_back(view, "with_gradient", _WINDOW, suspects)
        number, statistic = norms.number[suspects], norms.statistic[suspects]
        steps, count = view.window_steps(_WINDOW), len(norms.names)
        with np.errstate(invalid="ignore"):
            still = stretch_of(changed == 0, seen, steps)
            # Only meanwhile: of models that are trained one after the other, those that wait stand still as a whole.
            since = np.full(count, -1)
            np.maximum.at(since, number[statistic], still.first_step[statistic])
            meanwhile = steps[:, None] >= since[number]
            moves = ((changed > 0) & (gradient > 0) & meanwhile).sum(axis=0)
        yield from self._without_momentum(view, norms)
        enough = self.value("looks")
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

    def _without_momentum(self, view: View, norms: NormModules) -> Iterable[Claim]:
        """Batches are counted, and mean and variance are what they were made as, to the bit."""
        table = view.tensors
        last = np.array([fqn.rpartition(".")[2] for fqn in table.fqn], np.str_)
        means, variances, counters = (
            norms.statistic & (last == name)
            for name in ("running_mean", "running_var", "num_batches_tracked")
        )
        changed, seen = look_back(view, "changed", _WINDOW, np.arange(view.num_tensors))
        norm, exact = view.latest("norm"), view.latest("exact") == 1
        with np.errstate(invalid="ignore"):
            counted = (changed > 0).sum(axis=0)
            still = (seen.sum(axis=0) >= self.value("counted")) & ~(changed > 0).any(axis=0)
            moves = (counted >= self.value("counted")) & view.held & (view.lr > 0)
            initial = exact & np.where(means, norm == 0, norm == np.sqrt(table.numel))
        stuck = still & initial
        hit = (
            (norms.per_module(means & stuck) > 0)
            & (norms.per_module(variances & stuck) > 0)
            & (norms.per_module(counters & (counted >= self.value("counted"))) > 0)
            & (norms.per_module(table.is_param & moves) > 0)
        )
        chosen = np.flatnonzero((means | variances) & hit[norms.number])
        if len(chosen):
            yield Claim(
                tensors=chosen,
                message="{fqn} is as it was made after {batches} batches were counted: the momentum is 0, and the batches "
                "have no share in it.",
                advice="Give the share of the new batch as momentum: 0.1 here is 0.9 in libraries that mean the other one.",
                evidence={"batches": np.full(len(chosen), int(counted.max()))},
                first_step=np.full(len(chosen), view.base_step + 1),
            )
