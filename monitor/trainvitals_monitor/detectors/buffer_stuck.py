"""
The detector buffer-stuck: a teacher's running statistics that never follow, though its parameters do.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.modes import norm_modules
from trainvitals_monitor.detectors.stretch import look_back, stretch_of
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class BufferStuck(Detector):
    """
    Detects:
        Running means and variances that never change, of a module whose own parameters move without an optimizer (an
        average of another module's), while the running statistics of that other module, of the same name and shape,
        change and have gone elsewhere.

    Why it matters:
        The teacher, or the averaged model that is shipped, normalises with statistics of the initialisation: its
        outputs are far from the student's, although its weights follow.

    Known causes:
        The average is taken over `parameters()` only (https://github.com/CuriousAI/mean-teacher/issues/9,
        https://github.com/pytorch/ignite/issues/2590, https://github.com/lucidrains/ema-pytorch/issues/8).

    Fix:
        Copy or average the buffers too (`AveragedModel(use_buffers=True)`), run the teacher in train mode, or call
        `torch.optim.swa_utils.update_bn` before it is used.

    Misses:
        Averages kept outside the attached models. torch's `AveragedModel` is info: `update_bn` at the end of training
        makes it right. Buffers that are no running statistics of a normalisation.
    """

    name = "buffer-stuck"
    family = "movement"
    severity = Severity.WARNING
    summary = "A teacher's running statistics never follow, though its parameters do."
    reads = ("changed", "norm", "OptimizersSeen")
    alert = Alert(hold="5m", summary="Running statistics of an averaged model never change")
    thresholds = (
        Threshold(
            name="looks",
            default=8,
            unit="looks at which its parameters moved, and the other's statistics",
            reason="an average taken every few steps has shown whether it takes the buffers along",
        ),
        Threshold(
            name="apart",
            default=0.02,
            unit="ratio of the difference in norm",
            reason="statistics that have hardly moved from the initialisation do no harm yet",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        norms = norm_modules(view)
        pairs = view.cached("buffer-stuck", lambda: _pairs(view, norms.statistic))
        if not len(pairs):
            return
        mine, others = pairs.T
        if not (view.now("changed")[mine] == 0).any():
            return
        enough, steps = self.value("looks"), view.window_steps(_WINDOW)
        changed, seen = look_back(view, "changed", _WINDOW, mine)
        theirs, _ = look_back(view, "changed", _WINDOW, others)
        with np.errstate(invalid="ignore"):
            still = stretch_of(changed == 0, seen, steps)
            stuck = (still.looks >= enough) & (still.last_good_step < 0)
            stuck &= (theirs > 0).sum(axis=0) >= enough
        stuck &= self._follows(view, norms.number)[norms.number[mine]]
        norm, other = view.latest("norm")[mine], view.latest("norm")[others]
        with np.errstate(invalid="ignore"):
            stuck &= np.abs(norm - other) > self.value("apart") * np.maximum(norm, other)
        for averaged in (False, True):
            chosen = stuck & (_averaged(view)[mine] == averaged)
            if chosen.any():
                yield Claim(
                    tensors=mine[chosen],
                    message="{fqn} has not changed at any of {looks} looks, although the parameters beside it follow "
                    "another model's, whose {other} is at norm {other_norm:.3g} against {own_norm:.3g}.",
                    advice="Copy or average the buffers too, not only parameters().",
                    evidence={
                        "looks": still.looks[chosen],
                        "other": [view.tensors.fqn[index] for index in others[chosen]],
                        "own_norm": norm[chosen],
                        "other_norm": other[chosen],
                    },
                    first_step=still.first_step[chosen],
                    severity=Severity.INFO if averaged else None,
                )

    def _follows(self, view: View, number: IntArray) -> BoolArray:
        """Per module with running statistics: its parameters move, and no optimizer holds them."""
        count = int(number.max(initial=-1)) + 1
        follows = np.flatnonzero((number >= 0) & view.tensors.is_param & ~view.held)
        changed, _ = look_back(view, "changed", _WINDOW, follows)
        with np.errstate(invalid="ignore"):
            moves = (changed > 0).sum(axis=0) >= self.value("looks")
        return np.bincount(number[follows], moves, count) > 0


def _pairs(view: View, statistic: BoolArray) -> IntArray:
    """
    (teacher's, student's) running means and variances [k, 2]: equal names but for the first part that differs.

    A teacher's module has parameters, none of them held by an optimizer; a student's has one that is.
    """
    table, held = view.tensors, view.held
    parents = [fqn.rpartition(".")[0] for fqn in table.fqn]
    trained = {parents[index] for index in np.flatnonzero(table.is_param & held)}
    own = {parents[index] for index in np.flatnonzero(table.is_param)}
    students: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    teachers: list[int] = []
    for index in np.flatnonzero(statistic & (table.float_bits < 64)).tolist():
        if parents[index] in trained:
            for tail in _tails(table.fqn[index]):
                students.setdefault((tail, table.shape[index]), []).append(index)
        elif parents[index] in own:
            teachers.append(index)
    pairs = []
    for index in teachers:
        for tail in _tails(table.fqn[index]):  # the longest first
            found = students.get((tail, table.shape[index]), [])
            if found:
                if len(found) == 1:
                    pairs.append((index, found[0]))
                break
    return np.array(pairs, np.int64).reshape(-1, 2)


def _tails(fqn: str) -> list[str]:
    """The name without its first part, without its first two ...; a module's name and the tensor's at least."""
    parts = fqn.split(".")
    return [".".join(parts[start:]) for start in range(max(1, len(parts) - 1))]


def _averaged(view: View) -> BoolArray:
    """Tensors inside of torch's AveragedModel, which counts what it has averaged."""
    return view.cached("averaged", lambda: _make_averaged(view))


def _make_averaged(view: View) -> BoolArray:
    roots = [
        fqn.removesuffix("n_averaged")
        for fqn in view.tensors.fqn
        if fqn.rpartition(".")[2] == "n_averaged"
    ]
    return np.array([fqn.startswith(tuple(roots)) for fqn in view.tensors.fqn], np.bool_)
