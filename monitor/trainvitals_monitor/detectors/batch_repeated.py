"""
The detector batch-repeated: a DataLoader that is begun anew at each step, and gives the same batch for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class BatchRepeated(Detector):
    """
    Detects:
        At each of the last steps, all batches came from passes through a DataLoader that were begun for that step and left
        before their end, and were those of the step before.

    Why it matters:
        The model learns the first batch by heart and never sees another. The training loss falls beautifully.

    Known causes:
        `next(iter(loader))` in the loop makes a new iterator at each step, which begins with the first batch again unless
        the loader shuffles (https://github.com/ZhaoJ9014/face.evoLVe/issues/39,
        https://github.com/wandb/examples/issues/444); a `break` after the first batch of a loop that is inside of another.

    Fix:
        Make the iterator once before the loop, and a new one when it raises StopIteration; or loop over the loader.

    Misses:
        Data whose augmentation makes a new batch of the same samples, batches that are on a device when they leave the
        loader, data sets without a length, and data that comes from no DataLoader. Training on one batch on purpose, to
        see whether a model can learn it, is reported if the loader has more of them.
    """

    name = "batch-repeated"
    family = "inputs"
    severity = Severity.WARNING
    summary = "The training is given the same batch at every step."
    reads = ("repeats", "drawn", "batches")
    alert = Alert(hold="5m", summary="The training is given the same batch at every step")
    thresholds = (
        Threshold(
            name="repeats",
            default=8,
            unit="steps",
            reason="a few steps on one batch may be a test of the loop, or an adaptation to it",
        ),
    )
    resolve_after = 16

    def look(self, view: View) -> Iterable[Claim]:
        steps, repeats, seen = view.by_rank("repeats", 1)
        if not len(steps) or steps[-1] != view.step:
            return
        ranks = np.flatnonzero(seen[-1] & (repeats[-1] >= self.value("repeats")))
        if not len(ranks):
            return
        rank = int(ranks[0])
        steps, repeats, seen = view.by_rank("repeats", _WINDOW)
        begun = np.flatnonzero(seen[:, rank] & (repeats[:, rank] == 1))
        _, drawn, _ = view.by_rank("drawn", 1)
        _, batches, _ = view.by_rank("batches", 1)
        yield Claim(
            message="each of the last {repeats} steps was given the same {drawn} of the {batches} batches that its DataLoader "
            "has: it is begun anew at every step.",
            advice="Make the loader's iterator once, before the loop, instead of next(iter(loader)) in it.",
            evidence={
                "repeats": int(repeats[-1, rank]),
                "drawn": int(drawn[-1, rank]),
                "batches": int(batches[-1, rank]),
                "rank": rank,
            },
            first_step=int(steps[begun[-1]]) if len(begun) else None,
        )
