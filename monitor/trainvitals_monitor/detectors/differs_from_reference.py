"""
The detector differs-from-reference: where a run parts from the good one that it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    FloatArray,
    Threshold,
)
from trainvitals_monitor.detectors.reference_claims import (
    APART,
    loss_claim,
    stage_claim,
    start_claim,
)
from trainvitals_monitor.detectors.reference_settings import saves_that_differ, settings_that_differ
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import Comparison, Differences, View
from trainvitals_monitor.history.comparison import STAGES
from trainvitals_monitor.history.starts import Start

_LEVEL_LOOKS = 16
_LEVEL_TOLD = range(_LEVEL_LOOKS, _LEVEL_LOOKS + 8)


class DiffersFromReference(Detector):
    """
    Detects:
        The first step at which a run parts from its reference, and the tensors that part first: in their values at the
        start, the loss, gradients, updates, or values. While both are equal to the bit, any difference beyond rounding
        is a parting. While they are close (one rounding apart: another number of threads or ranks, kernels that add up
        in any order), differences grow smoothly, and a parting is one that is suddenly a hundred times larger than
        any before. Once they are far apart, or where they start from other random values (another seed), only what
        does not depend on chance is compared: the set of tensors, dtypes, what is trained, optimizers and learning
        rates, modes, the size of the values at the start, and the level of the gradients in the first steps.

    Why it matters:
        A wrong loss scale, initialisation or decay trains, and only trains worse. Beside a good run of the same script
        it shows in the step in which it happens.

    Known causes:
        Gradient accumulation that divides the loss twice or not at all
        (https://github.com/huggingface/transformers/pull/35207, https://github.com/huggingface/transformers/pull/38872); an initialisation that a refactoring lost
        (https://github.com/huggingface/transformers/issues/42754); a router's loss that is no longer computed
        (https://github.com/huggingface/transformers/issues/44242).

    Fix:
        Look at what changed between the two versions of the script in the part that is named: forward, backward,
        optimizer, loading or saving.

    Misses:
        Norms are compared, not elements. If even the first loss differs although both start from the same values, data
        or the forward pass are others: that is info. A slow fault is hidden where runs are only close, and every fault
        that moves neither settings nor levels is where they are only statistically comparable. Says nothing of a run
        without a reference.
    """

    name = "differs-from-reference"
    family = "compare"
    severity = Severity.WARNING
    summary = "The run parts from the reference that it is compared with."
    reads = ("digests", "norm", "update_norm", "grad_norm", "lr", "OptimizersSeen", "ModesSeen")
    alert = Alert(hold="1m", summary="The run parts from its reference")
    thresholds = (
        Threshold(
            name="backward",
            default=1e-5,
            unit="relative difference of a loss or a gradient's norm",
            reason="kernels that add up in any order differ by 1e-7 to 1e-6 in one pass",
        ),
        Threshold(
            name="optimizer",
            default=1e-4,
            unit="relative difference of an update's norm, gradients being equal",
            reason="an update is the difference of rounded values: 1e-5 between implementations of one optimizer",
        ),
        Threshold(
            name="values",
            default=4e-7,
            unit="relative difference of a norm, gradients being equal",
            reason="five half ulps of float32, and those of the norms; a decay of lr * weight_decay = 1e-6 a step is above it",
        ),
        Threshold(
            name="jump",
            default=100.0,
            unit="ratio to the largest difference before",
            reason="one ulp grows at most tenfold a step, in the first steps of Adam",
        ),
        Threshold(
            name="sudden",
            default=0.01,
            unit="relative difference",
            reason="a jump from noise that is smaller may be noise",
        ),
        Threshold(
            name="apart",
            default=APART,
            unit="relative difference",
            reason="beyond it runs are no longer near each other: they are compared statistically",
        ),
        Threshold(
            name="start_ratio",
            default=0.25,
            unit="log ratio of norms",
            reason="the norm of 512 random elements varies by 3 % with the seed; that of fewer by more, which is added",
        ),
        Threshold(
            name="level_ratio",
            default=0.55,
            unit="log ratio of gradient norms",
            reason="a loss that is halved once too often shifts all gradients by ln 2 at every step",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        comparison = view.comparison
        if comparison is not None:
            yield from saves_that_differ(view, comparison)
        found = comparison.latest if comparison is not None else None
        if comparison is None or found is None or view.is_late or found.step != view.step:
            return
        yield from settings_that_differ(view, comparison, found)
        if found.start is not None:
            yield from self._starts(view, comparison, found, found.start)
        if view.step > view.base_step:
            yield from self._parts(view, comparison, found)
            yield from self._level(comparison)

    # -- values at the start -----------------------------------------------------------------------------------------

    def _starts(
        self, view: View, comparison: Comparison, found: Differences, start: Start
    ) -> Iterable[Claim]:
        first = np.isnan(found.before)
        coarse = view.tensors.float_bits == 16
        with np.errstate(all="ignore"):
            apart = start.difference > np.where(coarse, 2e-2, 1e-4)
            if first:
                # Buffers have been through the first forward pass.
                apart &= view.tensors.is_param
                wrong = apart & self._off_level(view, start)
            elif found.before == 0 and comparison.whole:
                wrong = start.difference > 1e-6
            elif found.before < self.value("apart") and comparison.whole:
                wrong = start.difference > max(
                    self.value("sudden"), self.value("jump") * found.before
                )
            else:
                wrong = np.zeros(view.num_tensors, np.bool_)
        yield from start_claim(view, comparison, start, wrong, Severity.WARNING)
        # Some random values are the same, so it is no other seed; or weights were loaded, and the others are random.
        if first and (start.is_random & (start.difference == 0)).any():
            yield from start_claim(view, comparison, start, apart & ~wrong, Severity.INFO)

    def _off_level(self, view: View, start: Start) -> BoolArray:
        """
        Whose size chance does not explain: constants that are others, zeros, and norms beyond what seeds do. One element
        alone may be either.
        """
        elements = np.minimum(view.tensors.numel, 4096).astype(np.float64)
        with np.errstate(all="ignore"):
            shift = np.abs(np.log(start.ratio))
            chance = self.threshold("start_ratio", view) + 4 / np.sqrt(elements)
            beyond: BoolArray = np.where(start.is_random, (shift > chance) & (elements >= 16), True)
        return beyond & (shift > 1e-4) & (view.tensors.numel > 1)

    # -- the way through a step --------------------------------------------------------------------------------------

    def _parts(self, view: View, comparison: Comparison, found: Differences) -> Iterable[Claim]:
        before = found.before
        if not comparison.whole or np.isnan(before) or before >= self.value("apart"):
            return
        is_first = view.step == view.base_step + 1 and comparison.num_steps <= 2
        known = not is_first or _same_data(found, self.value("backward"))
        severity = Severity.WARNING if known else Severity.INFO
        floor = max(self.value("sudden"), self.value("jump") * before)
        is_exact = before == 0 and found.gap == 1 and known
        if found.losses:
            bound = self.value("backward") if is_exact else floor
            worst = max(found.losses, key=lambda name: found.losses[name][0])
            if found.losses[worst][0] > bound:
                yield loss_claim(view, comparison, found, worst, severity)
                return
        for stage in STAGES:
            now = found.now[stage]
            bounds = self._bounds(view, found, stage) if is_exact else floor
            with np.errstate(invalid="ignore"):
                tensors = np.flatnonzero(now > np.minimum(bounds, 0.5))
            if len(tensors):
                yield stage_claim(view, comparison, found, stage, tensors, severity)
                return

    def _bounds(self, view: View, found: Differences, stage: str) -> FloatArray:
        """While all was equal: what rounding can do in this part of a step. Coarser types round a thousand times more."""
        coarse = np.where(view.tensors.float_bits == 16, 1e3, 1.0)
        equal = all(not np.nanmax(found.now[s], initial=0.0) for s in STAGES[:1])
        equal = equal and not found.largest_loss > 0
        if stage == "gradient" or not equal:
            return self.threshold("backward", view) * coarse
        return self.threshold("optimizer" if stage == "update" else "values", view) * coarse

    # -- the level of the gradients ----------------------------------------------------------------------------------

    def _level(self, comparison: Comparison) -> Iterable[Claim]:
        levels = comparison.levels[:_LEVEL_LOOKS]
        if not comparison.whole or len(comparison.levels) not in _LEVEL_TOLD:
            return
        ratios = np.array([ratio for _, ratio in levels])
        level, first = float(np.median(ratios)), float(np.median(ratios[:4]))
        spread = 1.5 * float(np.median(np.abs(ratios - level)))
        one_sided = bool((np.sign(ratios) == np.sign(level)).all())
        # There from the start: another pace of learning grows into it.
        least = min(abs(level), abs(first))
        if one_sided and least > self.value("level_ratio") and spread < abs(level) / 3:
            yield Claim(
                message="over {looks} steps gradients are {ratio:.3g} times as large as those of {reference}.",
                advice="Compare how the loss is scaled: divided by accumulation steps, tokens or ranks once too often, "
                "or not at all.",
                evidence={
                    "ratio": [float(np.exp(level))],
                    "looks": [_LEVEL_LOOKS],
                    "kind": ["gradient level"],
                    "mode": ["statistical"],
                    "reference": [comparison.reference.run],
                },
                first_step=levels[0][0],
                key="level",
            )


def _same_data(found: Differences, close: float) -> bool:
    """
    Whether the first step is of the same batch: its losses are the same, and not such as every batch gives before
    anything is learnt (ln 2, ln 10, 0, 1), or some gradient is.
    """
    told = [one for one in found.losses.values() if not _says_nothing(one[1])]
    if found.losses:
        return any(difference <= close for difference, *_ in told)
    gradients = found.now["gradient"]
    with np.errstate(invalid="ignore"):
        return bool(((gradients <= close) & (found.values["gradient"] > 0)).any())


def _says_nothing(loss: float) -> bool:
    classes = float(np.exp(min(abs(loss), 40.0)))
    return any(abs(one - round(one)) < 1e-4 * max(one, 1.0) for one in (loss, classes))
