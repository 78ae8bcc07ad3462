"""
The detector replicas-fed-same-batch: data parallel ranks that are given the same data.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class ReplicasFedSameBatch(Detector):
    """
    Detects:
        The wrapper of a data parallel model (DistributedDataParallel, fully_shard over one axis) was called with the same
        tensors on all ranks of its group, at each of the last steps, though they changed from step to step.

    Why it matters:
        All ranks compute the same gradient: eight machines train as fast as one, on an eighth of the batch that was meant.

    Known causes:
        A DataLoader without DistributedSampler, a sampler that was given no rank, a seed that is the same on all ranks
        where each draws its own data (https://pytorch.org/docs/stable/data.html#torch.utils.data.distributed.DistributedSampler).

    Fix:
        Give each rank its part of the data: DistributedSampler, `split_dataset_by_node`, or a seed that depends on the rank.

    Misses:
        Inputs on a device are not read, for that would wait for it. Ranks that get the same samples in another order, or
        at other steps. Tensor parallel ranks are to be given the same batch, and are not compared.
    """

    name = "replicas-fed-same-batch"
    family = "ranks"
    severity = Severity.WARNING
    summary = "Data parallel ranks are given the same data."
    reads = ("input_digest", "group_first", "group_size")
    alert = Alert(hold="5m", summary="Data parallel ranks are given the same data")
    thresholds = (
        Threshold(
            name="steps",
            default=8,
            unit="steps",
            reason="as many different batches on all ranks alike are no accident",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        if view.world_size == 1:
            return
        needed = int(self.value("steps"))
        steps, digests, seen = view.by_rank("input_digest", _WINDOW)
        _, firsts, _ = view.by_rank("group_first", _WINDOW)
        _, sizes, _ = view.by_rank("group_size", _WINDOW)
        known = (seen & (digests != 0)).any(axis=1)
        if not known.any() or steps[known][-1] != view.step:
            return
        rows = np.flatnonzero(known)[-needed:]
        if len(rows) < needed:
            return
        first, size = int(firsts[rows[-1]].min()), int(sizes[rows[-1]].max())
        told = digests[rows]
        # One group of all ranks, each of which was read at each of these steps.
        if size != view.world_size or first != 0 or (told == 0).any():
            return
        if (told != told[:, :1]).any() or len(np.unique(told[:, 0])) < needed:
            return
        yield Claim(
            message="All {ranks} data parallel ranks were given the same inputs at each of the last {steps} steps, other "
            "ones at each step.",
            advice="Give each rank its part of the data, for instance with a DistributedSampler.",
            evidence={"ranks": view.world_size, "steps": needed},
            first_step=int(steps[rows[0]]),
        )
