"""
The detector frozen-statistics-moved: running statistics of a frozen network that drift to other data.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.contract import matches
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    FloatArray,
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.modes import NormModules, modes_of, norm_modules
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View, sketch_of


class FrozenStatisticsMoved(Detector):
    """
    Detects:
        A batch norm in train mode whose running mean, not zero when the run began, has moved away by a good part of a
        standard deviation, though neither its own parameters nor any registered before them are trained, while later ones
        are. Info, for many train so and some mean it; a warning where `Contract(frozen=)` names a parameter of the norm.

    Why it matters:
        The frozen network is not frozen: its outputs change with every batch, and differ between training and use. What
        was trained on it fits statistics that nobody chose, and a copy of the frozen weights from elsewhere no longer does
        the same.

    Known causes:
        `requires_grad_(False)` for a pre-trained backbone, and `model.train()` for the whole model at each epoch
        (https://github.com/lightly-ai/lightly/issues/1438, https://github.com/ultralytics/ultralytics/issues/8753).

    Fix:
        Call `backbone.eval()` after each `model.train()`, best by overriding the model's `train()`.

    Misses:
        Statistics that move by less, as on data like those of the pre-training: nothing is said. Fresh backbones;
        averages, which move; norms without parameters, and those behind anything that is trained, whose statistics have to follow.
        Whether it is meant can't be told from the state: beside a good run, differs-from-reference finds it.
    """

    name = "frozen-statistics-moved"
    family = "modes"
    severity = Severity.INFO
    summary = "Running statistics of a frozen network drift: it is in train mode."
    reads = ("digests", "changed", "norm", "ModesSeen", "OptimizersSeen")
    alert = Alert(hold="5m", summary="Running statistics of a frozen network drift")
    thresholds = (
        Threshold(
            name="drift",
            default=0.3,
            unit="standard deviations, root mean square over the channels",
            reason="the mean of a batch of 32 values that a momentum of 0.1 averages scatters by 0.04; other data are off by "
            "1 and more",
        ),
        Threshold(
            name="steps",
            default=8,
            unit="steps in train mode",
            reason="a few passes in train mode may be a calibration",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        norms = norm_modules(view)
        if not norms.names or view.step - view.base_step < self.value("steps"):
            return
        means = self._means(view, norms)
        if not len(means):
            return
        now, first = view.digests(), view.first_digests()
        if now is None or first is None:
            return
        means = means[(now["count"][means] > 0) & (first["count"][means] == now["count"][means])]
        means = means[first["square_sum"][means] > 0]
        variance = _variances(view, norms, means)
        distance = ((sketch_of(now, means) - sketch_of(first, means)) ** 2).mean(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            drift = np.sqrt(distance / variance)
            far = drift > self.threshold("drift", view)[means]
        declared = _declared_frozen(view, norms)[norms.number[means]]
        for rows, severity in ((far & declared, Severity.WARNING), (far & ~declared, None)):
            if rows.any():
                steps = np.full(int(rows.sum()), view.step - view.base_step)
                yield Claim(
                    tensors=means[rows],
                    message="{fqn} has moved by {drift:.2g} standard deviations since the run began, though nothing up to "
                    "it is trained: its batch norm is in train mode.",
                    advice="Call eval() on the frozen part after each model.train().",
                    evidence={"drift": drift[rows], "steps": steps},
                    first_step=view.base_step + 1,
                    last_good_step=view.base_step,
                    severity=severity,
                    key="declared" if severity else "",
                )

    def _means(self, view: View, norms: NormModules) -> IntArray:
        """Running means that move, of batch norms in train mode with nothing trained up to them."""
        modes, table = modes_of(view), view.tensors
        with np.errstate(invalid="ignore"):
            moves = (view.latest("changed") > 0) & norms.statistic
        moves &= _named(view, "running_mean")
        if modes is None or not moves.any():
            return np.empty(0, np.int64)
        asleep = modes.since >= 0
        moved = np.zeros(view.num_tensors, np.bool_)
        moved[: len(view.moved.first)] = view.moved.first >= 0
        alive = table.is_param & ((view.held & table.trainable) | moved)
        begins = int(table.order[alive].min()) if alive.any() else -1
        params = norms.per_module(table.is_param)
        chosen = np.flatnonzero(moves & ~asleep)
        module = norms.number[chosen]
        last = np.full(len(norms.names), -1, np.int64)
        own = np.flatnonzero((norms.number >= 0) & table.is_param)
        np.maximum.at(last, norms.number[own], table.order[own])
        frozen = (params > 0) & (last < begins)
        found: IntArray = chosen[frozen[module]]
        return found


def _declared_frozen(view: View, norms: NormModules) -> BoolArray:
    """By module: a parameter of it is declared frozen."""
    named = [matches(fqn, view.contract.frozen) for fqn in view.tensors.fqn]
    return norms.per_module(np.array(named, np.bool_) & view.tensors.is_param) > 0


def _named(view: View, name: str) -> BoolArray:
    return np.array([fqn.rpartition(".")[2] == name for fqn in view.tensors.fqn], np.bool_)


def _variances(view: View, norms: NormModules, means: IntArray) -> FloatArray:
    """The sum of each module's running variances, at most: from their norm."""
    variances = np.flatnonzero(norms.statistic & _named(view, "running_var"))
    norm = np.full(len(norms.names), np.nan)
    norm[norms.number[variances]] = view.latest("norm")[variances]
    return norm[norms.number[means]] * np.sqrt(view.tensors.numel[means])
