"""
The detector expert-load-imbalance: experts' loads that drift apart, and stay apart.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.detectors.experts import evenness, is_by_design, past, unevenly_used
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class ExpertLoadImbalance(Detector):
    """
    Detects:
        At each of the last looks, the load of a router's experts (by its token counter or its outputs, over 32 looks
        together) is very uneven, and it does not get more even. A warning if it was even in this attempt before, and info if it
        has been so from the start.

    Why it matters:
        Some experts learn from few tokens; where experts are spread over devices, the busiest one is waited for, or
        drops tokens that go beyond its capacity.

    Known causes:
        A balancing loss or bias that was lost on the way, such as after a resume
        (https://github.com/pytorch/torchtitan/issues/1222), or that counts the tokens of one rank only; a coefficient
        that is too small (https://github.com/huggingface/transformers/issues/44242).

    Fix:
        Check what balances the load: the coefficient of the loss, the counts from which the bias is updated.

    Misses:
        Routers without a token counter that are compiled. A balancing bias that moves against the load, a router that
        is not trained, and a learning rate that still rises make it info.
    """

    name = "expert-load-imbalance"
    family = "moe"
    severity = Severity.WARNING
    summary = "Experts' loads drift apart, and stay apart."
    reads = ("experts", "chosen", "recent_effective", "recent_tokens", "follows")
    alert = Alert(hold="10m", summary="Experts' loads have drifted apart")
    thresholds = (
        Threshold(
            name="evenness",
            default=0.4,
            unit="0: as uneven as can be, 1: even",
            reason="48 routers of small models stayed above 0.7 in 150 steps with no balancing at all",
        ),
        Threshold(
            name="was_even",
            default=0.7,
            unit="evenness earlier in the attempt",
            reason="a load that was balanced once shows that it can be",
        ),
        Threshold(
            name="looks",
            default=48,
            unit="looks",
            reason="a balancing loss that works mends an imbalance within some tens of steps",
        ),
        Threshold(
            name="tokens",
            default=16,
            unit="choices an expert, on average",
            reason="with fewer, equal chances make uneven loads too",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        bounds = self.threshold("evenness", view)
        uneven = unevenly_used(view, bounds, self.threshold("tokens", view))
        for tensor, experts, chosen, _ in zip(*uneven, strict=True):
            steps, effective = past(view, "recent_effective", tensor, 256)
            history = evenness(effective, experts, chosen)
            count = int(self.value("looks"))
            bound = bounds[tensor]
            if len(steps) < count or (history[-count:] >= bound).any():
                continue
            if history[-1] > history[-count]:
                continue
            fell = history.max() >= self.value("was_even")
            info = not fell or is_by_design(view, tensor)
            yield Claim(
                tensors=np.array([tensor]),
                message="for {looks} looks the load by {fqn} is that of {effective:.1f} equally used experts where there are "
                "{experts}, and {best:.1f} at best.",
                advice="Check what balances the load: the coefficient of the loss, the counts that move the bias.",
                evidence={
                    "effective": effective[-1:],
                    "best": np.array([effective.max()]),
                    "experts": np.array([int(experts)]),
                    "looks": np.array([count]),
                },
                first_step=int(steps[-count]),
                severity=Severity.INFO if info else None,
            )
