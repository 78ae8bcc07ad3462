"""
The detector schedule-overrun: a learning rate that comes up again because its schedule is over.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class ScheduleOverrun(Detector):
    """
    Detects:
        A learning rate that came down along a cosine to a tenth of its peak or less, and comes up again the same way, step
        by step: eight changes on each side of the lowest rate mirror each other, flat at the bottom. Info where that is not
        all but zero: so are waves written that are meant.

    Why it matters:
        The training was to end at the bottom. Now it climbs back to the full rate: what the decay gained is lost, and the
        final weights depend on where in the wave the run happens to stop.

    Known causes:
        A cosine is a wave, and most schedulers follow it beyond their last step: `CosineAnnealingLR` with a `T_max` of the
        warm-up's or an epoch's steps (https://github.com/lucidrains/imagen-pytorch/issues/71,
        https://github.com/CodefyUI/CodefyUI/issues/205); a scheduler that is stepped per microbatch or per process; a
        resume that trains for longer than was planned.

    Fix:
        Give the scheduler the number of optimizer steps of the whole training, step it once per optimizer step, and clamp
        its progress at 1.

    Misses:
        Schedules that end at a constant or zero rate too early (schedule-ended-early and learning-rate-zero, where the
        contract says the number of steps); cosines of fewer than 32 changes. Warm restarts jump, and triangles have a
        corner: both are left alone. A wave down to 0 that is meant is reported.
    """

    name = "schedule-overrun"
    family = "optimizer"
    severity = Severity.WARNING
    summary = (
        "The learning rate comes up again along the cosine that it came down: its schedule is over."
    )
    reads = ("lr", "OptimizersSeen")
    alert = Alert(summary="A learning rate comes up again: its schedule is over")
    thresholds = (
        Threshold(
            name="bottom",
            default=0.005,
            unit="ratio of the lowest rate to the peak",
            reason="a cosine to 0 of 32 changes and more comes below, wherever it steps; a wave that is meant is to learn at "
            "its bottom too",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        rates, seen = view.group_rates, view.optimizers
        if rates is None or seen is None:
            return
        for group, mirror in enumerate(rates.mirrored):
            if mirror is None:
                continue
            meant = mirror.lowest > self.value("bottom") * rates.peak[group]
            held = np.array(sorted({i for i in seen.group_tensors[group] if i >= 0}), np.int64)
            if len(held):
                yield Claim(
                    tensors=held,
                    message="the learning rate of {fqn} and the {tensors} tensors of its group comes up again since step "
                    "{rising_step}, to {lr:.3g} of a peak of {peak:.3g}, along the cosine that it came down: its schedule is "
                    "over" + (", or a wave." if meant else "."),
                    advice="Give the scheduler the number of steps of the whole training, and step it once per optimizer "
                    "step.",
                    evidence={
                        "rising_step": np.full(len(held), mirror.step),
                        "lr": np.full(len(held), rates.lr[group]),
                        "peak": np.full(len(held), rates.peak[group]),
                        "tensors": np.full(len(held), len(held)),
                    },
                    first_step=mirror.step,
                    last_good_step=mirror.step - 1,
                    severity=Severity.INFO if meant else None,
                    key=f"group {group}",
                )
