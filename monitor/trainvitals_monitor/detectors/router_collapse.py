"""
The detector router-collapse: a router that sends nearly everything to the same few experts.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.detectors.experts import is_by_design, past, unevenly_used
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class RouterCollapse(Detector):
    """
    Detects:
        Over the last looks together, the load of a router's experts is nearly as uneven as it can be, and it does not
        get more even. Loads come from the token counter, or from what the router returns; evenness is 0 where as many
        experts as a token has choices take everything, 1 where all have the same load.

    Why it matters:
        The other experts are paid for and learn nothing. The loss falls all the same, as that of a much smaller model.

    Known causes:
        A balancing loss that is never added, as with `output_router_logits=False` in Mixtral-like models
        (https://github.com/huggingface/transformers/issues/44242); its coefficient is 0; it is computed of detached
        router outputs; a balancing bias that is not updated, or moves the wrong way.

    Fix:
        Check that the balancing loss is part of the loss that backward() is called on and that it reaches the router's
        weight, or that the balancing bias moves against the load.

    Misses:
        Routers without a token counter that are compiled. A balancing bias that moves against the load, a router that
        is not trained, and a learning rate that still rises make it info: that heals, or is meant so. Trained experts
        that all serve one narrow domain may look like this.
    """

    name = "router-collapse"
    family = "moe"
    severity = Severity.WARNING
    summary = "A router sends nearly everything to the same few experts."
    reads = (
        "experts",
        "chosen",
        "effective_experts",
        "recent_effective",
        "recent_tokens",
        "follows",
    )
    alert = Alert(hold="10m", summary="A router sends nearly everything to the same few experts")
    thresholds = (
        Threshold(
            name="evenness",
            default=0.25,
            unit="0: as uneven as can be, 1: even",
            reason="48 routers of small models stayed above 0.7 in 150 steps with no balancing at all",
        ),
        Threshold(
            name="looks",
            default=32,
            unit="looks",
            reason="a balancing loss that works mends a bad start within some tens of steps",
        ),
        Threshold(
            name="tokens",
            default=16,
            unit="choices an expert, on average",
            reason="with fewer, equal chances make uneven loads too",
        ),
        Threshold(
            name="recovery",
            default=1.05,
            unit="effective experts in the last third of the looks over those in the first",
            reason="a load that gets more even by more than this heals by itself",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        uneven = unevenly_used(
            view, self.threshold("evenness", view), self.threshold("tokens", view)
        )
        for tensor, experts, _, even in zip(*uneven, strict=True):
            steps, effective = past(view, "effective_experts", tensor, int(self.value("looks")))
            if len(steps) < self.value("looks"):
                continue
            third = len(steps) // 3
            if effective[-third:].mean() > self.value("recovery") * effective[:third].mean():
                continue
            yield Claim(
                tensors=np.array([tensor]),
                message="over {looks} looks the load by {fqn} is that of {effective:.1f} equally used experts where there "
                "are {experts}, and it does not get more even.",
                advice="Check that the balancing loss is part of the loss and reaches the router, or that the "
                "balancing bias moves against the load.",
                evidence={
                    "effective": view.now("recent_effective")[[tensor]],
                    "experts": np.array([int(experts)]),
                    "evenness": np.array([even]),
                    "looks": np.array([len(steps)]),
                },
                first_step=int(steps[0]),
                severity=Severity.INFO if is_by_design(view, tensor) else None,
            )
