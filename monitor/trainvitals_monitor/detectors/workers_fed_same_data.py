"""
The detector workers-fed-same-data: every worker of a DataLoader gives the whole data set.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class WorkersFedSameData(Detector):
    """
    Detects:
        A DataLoader over a data set that is iterated over, with several workers, all of which gave the same batch in every
        one of the first rounds, another one in each round.

    Why it matters:
        Each sample is trained on as often as there are workers, one right after the other: an epoch is that much longer,
        and steps learn from that many fewer samples than they seem to.

    Known causes:
        An `IterableDataset` whose `__iter__` does not ask `get_worker_info()` for its part
        (https://github.com/pytorch/pytorch/issues/30599, https://github.com/huggingface/datasets/issues/3423,
        https://github.com/huggingface/finetrainers/issues/394); samples made with a random generator that every worker
        inherited in the same state (NumPy's: https://github.com/pytorch/pytorch/issues/5059).

    Fix:
        Take every n-th sample or shard, from the worker's id on, of n workers; seed generators by the worker.

    Misses:
        Workers that give the same samples in an order of their own; batches that are on a device when they leave the
        loader; loaders that give batches as they become ready; iterations that end within the first rounds.
    """

    name = "workers-fed-same-data"
    family = "inputs"
    severity = Severity.WARNING
    summary = "Every worker of the data loader gives the same data."
    reads = ("workers", "rounds", "alike")
    alert = Alert(summary="Every worker of the data loader gives the same data")
    thresholds = (
        Threshold(
            name="share",
            default=1.0,
            unit="ratio of the rounds compared",
            reason="every one, for a fault of this kind has no exceptions; data that are all the same count once",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        steps, alike, seen = view.by_rank("alike", 1)
        if not len(steps) or steps[-1] != view.step:
            return
        _, rounds, _ = view.by_rank("rounds", 1)
        told = seen[-1] & (rounds[-1] > 0)
        ranks = np.flatnonzero(told & (alike[-1] >= self.value("share") * rounds[-1]))
        if not len(ranks):
            return
        rank = int(ranks[0])
        _, workers, _ = view.by_rank("workers", 1)
        yield Claim(
            message="the {workers} workers of a DataLoader gave the same batch in each of {rounds} rounds: every batch comes "
            "{workers} times.",
            advice="Give each worker its part of the data set: see torch.utils.data.get_worker_info().",
            evidence={
                "workers": int(workers[-1, rank]),
                "rounds": int(rounds[-1, rank]),
                "rank": rank,
            },
        )
