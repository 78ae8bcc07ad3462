"""
The detector expert-dead: experts that get no token at all, for a long time.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, IntArray, Threshold
from trainvitals_monitor.detectors.experts import is_by_design, past
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class ExpertDead(Detector):
    """
    Detects:
        Experts that were not chosen once in the last 32 looks, though equal chances would have given each of them
        hundreds of tokens (from the token counter, or from what the router returns; of all ranks that share it); or that
        had no gradient at any of these looks, while most experts had one at nearly each.

    Why it matters:
        A dead expert is paid for and learns nothing; without tokens it has no gradient by which it could come back.

    Known causes:
        No balancing loss, or one that does not reach the router
        (https://github.com/huggingface/transformers/issues/44242); an expert left out by an index that is one too
        small; routers and experts that are not initialised alike; groups of experts masked out before the choice.

    Fix:
        Look at the router's scores of the dead experts: if they are the largest at times, the choice leaves them out; if
        not, balance: by a loss, a bias, or noise on the scores.

    Misses:
        Few experts of many are info, for models trained on everything and tuned on one domain have them; so are those
        whose balancing bias moves against the load, and those of a router that is not trained. From gradients, experts
        that are single modules and sharded are not seen.
    """

    name = "expert-dead"
    family = "moe"
    severity = Severity.WARNING
    summary = "Experts get no token at all."
    reads = ("experts", "unused", "recent_tokens", "stacked", "unfed", "usual_feeds", "follows")
    alert = Alert(hold="10m", summary="Experts get no token at all")
    thresholds = (
        Threshold(
            name="tokens",
            default=256,
            unit="choices an expert, on average",
            reason="an expert with a tenth of its fair share is missed by all of them once in 1e11 times",
        ),
        Threshold(
            name="looks",
            default=32,
            unit="looks",
            reason="as far as the agent's own window goes",
        ),
        Threshold(
            name="share",
            default=0.125,
            unit="of all experts",
            reason="narrow data leaves some of a hundred experts idle by right, seldom an eighth of them",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        counted = np.flatnonzero(view.seen("unused") & (view.now("unused") > 0))
        if len(counted):
            fair = view.now("recent_tokens")[counted] / view.now("experts")[counted]
            enough = fair >= self.threshold("tokens", view)[counted]
            yield from self._claims(view, counted[enough], "unused", "experts")
        fed = np.flatnonzero(view.seen("unfed") & (view.now("unfed") > 0))
        if len(fed):
            usual = view.now("usual_feeds")[fed] >= self.value("looks") - 2
            yield from self._claims(view, fed[usual], "unfed", "stacked")

    def _claims(self, view: View, tensors: IntArray, stat: str, of: str) -> Iterable[Claim]:
        what = "got no token" if stat == "unused" else "had no gradient"
        for tensor in tensors.tolist():
            steps, dead = past(view, stat, tensor, int(self.value("looks")))
            if len(steps) < self.value("looks"):
                continue
            share = view.now(stat)[tensor] / view.now(of)[tensor]
            minor = share < self.threshold("share", view)[tensor] or is_by_design(view, tensor)
            yield Claim(
                tensors=np.array([tensor]),
                message="{dead} of the {experts} experts of {fqn} " + what + " in {looks} looks.",
                advice="Look at the router's scores of these experts, and at what balances their load.",
                evidence={
                    "dead": np.array([int(dead[-1])]),
                    "experts": np.array([int(view.now(of)[tensor])]),
                    "looks": np.array([len(steps)]),
                },
                first_step=int(steps[0]),
                severity=Severity.INFO if minor else None,
            )
