"""
First cause: which finding explains which, and what stands for itself. The only place of the rule.

Finding A explains finding B of the same attempt if all of this holds:

* EXPLAINS names B's detector among what A's leads to;
* A is above info;
* A came first: its first wrong step is earlier, or is the same and its detector stands earlier in the catalogue;
* B is within reach: it began at most REACH_STEPS after A was last seen; or what A tells can't un-happen, and does not
  spread (a wrong start must not take the blame for all that ever comes after it);
* where B is about tensors, they are A's, or of the same modules as A's; not asked where A's fault spreads.

Of several, the first is the cause. It is a function of the findings as they are now: a cause that is found later than
what follows from it folds that then, and no restart or order of frames changes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.findings import Finding, Severity, Status

REACH_STEPS = 64
"""As long as most findings stay open without being claimed again (see `Detector.resolve_after`)."""


@dataclass(frozen=True)
class Effects:
    """What a fault leads to: names of detectors. `spreads`: through the whole model, whatever tensors it began with."""

    on: tuple[str, ...]
    spreads: bool = False


_BLOWN_UP = (
    "non-finite",
    "norm-explosion",
    "gradient-explosion",
    "loss-non-finite",
    "loss-spike",
    "loss-at-chance",
)
_UNTRAINED = ("gradient-missing", "gradient-zero", "parameter-stuck", "lora-b-stuck")
_LOST = ("updates-lost", "buffer-stuck", "parameter-stuck", "expert-bias-drift")
_UNMOVED = ("update-ratio-out-of-range", "updates-lost", "parameter-stuck", "lora-b-stuck")
_UNBALANCED = ("router-collapse", "expert-dead", "expert-load-imbalance")

EXPLAINS: Mapping[str, Effects] = {
    "slot-replaced": Effects(
        (
            "tied-weights-broken",
            "dtype-changed",
            "contract-broken",
            "checkpoint-stale",
            "checkpoint-keys-changed",
            "optimizer-holds-dead-parameter",
            "parameter-not-in-optimizer",
            *_UNTRAINED,
            "buffer-stuck",
            "expert-bias-drift",
        )
    ),
    "tied-weights-broken": Effects(
        (
            "contract-broken",
            "optimizer-holds-dead-parameter",
            "parameter-not-in-optimizer",
            *_UNTRAINED,
        )
    ),
    "dtype-changed": Effects(
        ("contract-broken", "optimizer-state-low-precision", *_LOST, "non-finite")
    ),
    "contract-broken": Effects(("optimizer-state-low-precision", "counter-stuck", *_LOST)),
    "tensor-unregistered": Effects(("checkpoint-incomplete", "parameter-not-in-optimizer")),
    "tensor-added-or-lost": Effects(
        ("optimizer-holds-dead-parameter", "parameter-not-in-optimizer", "checkpoint-keys-changed")
    ),
    "load-incomplete": Effects(
        ("resume-not-applied", "resume-discontinuity", "lora-dead", "loss-at-chance")
    ),
    "resume-not-applied": Effects(
        (
            "resume-mismatched",
            "resume-discontinuity",
            "moments-permuted",
            "optimizer-state-reset",
            *_BLOWN_UP,
        ),
        spreads=True,
    ),
    "resume-mismatched": Effects(_BLOWN_UP, spreads=True),
    "resume-discontinuity": Effects(_BLOWN_UP, spreads=True),
    "moments-permuted": Effects(_BLOWN_UP, spreads=True),
    "optimizer-state-reset": Effects(_BLOWN_UP, spreads=True),
    "weights-overwritten": Effects(_BLOWN_UP, spreads=True),
    "steps-skipped": Effects(("parameter-stuck", "lora-b-stuck", "loss-at-chance"), spreads=True),
    "optimizer-holds-dead-parameter": Effects(("parameter-not-in-optimizer", *_UNTRAINED)),
    "parameter-not-in-optimizer": Effects((*_UNTRAINED, "gradient-not-cleared")),
    "wrong-from-initialisation": Effects(
        (
            *_BLOWN_UP,
            *_UNTRAINED,
            "lora-dead",
            "units-alike",
            "gradient-vanishing",
            "update-ratio-out-of-range",
        ),
        spreads=True,
    ),
    "units-alike": Effects(("gradient-zero", "parameter-stuck", "lora-b-stuck")),
    "learning-rate-zero": Effects((*_UNMOVED, "loss-at-chance"), spreads=True),
    "learning-rate-vanished": Effects(_UNMOVED, spreads=True),
    # Of two zero factors neither has a gradient.
    "lora-dead": Effects(("gradient-zero", "parameter-stuck")),
    # Without a gradient, weight decay is all that is left of an update.
    "gradient-zero": Effects(("parameter-stuck", "norm-collapse")),
    "gradient-vanishing": Effects(
        ("gradient-zero", "updates-lost", "parameter-stuck", "lora-b-stuck")
    ),
    "update-ratio-out-of-range": Effects(("updates-lost", "parameter-stuck", "lora-b-stuck")),
    "gradient-missing": Effects(("parameter-stuck", "lora-b-stuck")),
    "gradient-not-cleared": Effects((*_BLOWN_UP, "gradient-clipped-away"), spreads=True),
    "gradient-clipped-away": Effects(
        ("updates-lost", "parameter-stuck", "lora-b-stuck"), spreads=True
    ),
    "optimizer-state-low-precision": Effects(("updates-lost", "parameter-stuck", "non-finite")),
    # A count of tokens that counts no further misleads what balances by it.
    "counter-stuck": Effects(("expert-bias-drift", *_UNBALANCED)),
    "updates-lost": Effects(("parameter-stuck", "buffer-stuck")),
    "eval-mode-in-training": Effects(("batch-norm-frozen", "buffer-stuck")),
    "batch-norm-frozen": Effects(("buffer-stuck",)),
    "buffer-stuck": Effects(_UNBALANCED),
    "lora-a-growth": Effects(_BLOWN_UP, spreads=True),
    "expert-bias-drift": Effects((*_BLOWN_UP, *_UNBALANCED), spreads=True),
    "router-untrained": Effects(
        ("gradient-vanishing", "gradient-zero", "parameter-stuck", *_UNBALANCED)
    ),
    "router-collapse": Effects(("expert-dead", "expert-load-imbalance")),
    "expert-dead": Effects(("gradient-missing", "gradient-zero", "parameter-stuck")),
    "expert-load-imbalance": Effects(("expert-dead",)),
    "non-finite": Effects(
        (
            *_BLOWN_UP,
            *_LOST,
            *_UNBALANCED,
            "steps-skipped",
            "gradient-clipped-away",
            "lora-b-stuck",
            "batch-norm-frozen",
        ),
        spreads=True,
    ),
    "norm-explosion": Effects(_BLOWN_UP, spreads=True),
    "norm-collapse": Effects(("gradient-vanishing", "loss-at-chance"), spreads=True),
    "loss-non-finite": Effects(("non-finite",), spreads=True),
}
"""By detector. Causes that only come true in a later attempt (a stale checkpoint) are findings of their own there."""

EXPLAINS_NOTHING = frozenset(
    {
        # What is wrong in a checkpoint comes true in another attempt.
        "checkpoint-incomplete",
        "checkpoint-keys-changed",
        "checkpoint-stale",
        # Training goes on, only other than was meant.
        "average-aliased",
        "average-stuck",
        "base-weights-moved",
        "batch-repeated",
        "codebook-collapse",
        "dropout-lost",
        "frozen-parameter-moved",
        "frozen-statistics-moved",
        "replica-divergence",
        "replicas-fed-same-batch",
        "schedule-ended-early",
        "schedule-overrun",
        "workers-fed-same-data",
        # Told of by what they are, and not by why.
        "lora-b-stuck",
        "loss-at-chance",
        "parameter-stuck",
        # Never above info, and what is only worth knowing explains nothing.
        "gradient-explosion",
        "learning-rate-jump",
        "loss-spike",
        # Says that runs part, whatever the reason: no cause, and no effect either.
        "differs-from-reference",
    }
)

_PLACE = {detector.name: place for place, detector in enumerate(DETECTORS)}
_CAUSES: Mapping[str, list[str]] = {
    effect: [name for name, effects in EXPLAINS.items() if effect in effects.on]
    for effects in EXPLAINS.values()
    for effect in effects.on
}
_FOR_GOOD = frozenset(one.name for one in DETECTORS if one.resolve_after is None)


@dataclass(frozen=True)
class Fault:
    """What the rule asks of a finding. `places`: its tensors' FQNs and their modules; none if it is about the run."""

    id: str
    attempt: str
    detector: str
    severity: Severity
    first_step: int
    last_step: int
    places: frozenset[str]

    @property
    def order(self) -> tuple[int, int, str]:
        """First wrong first, then as the catalogue has them."""
        return self.first_step, _PLACE.get(self.detector, len(_PLACE)), self.id


def direct_causes(faults: Iterable[Fault]) -> dict[str, str]:
    """Per finding that another one explains: its id and that one's."""
    found: dict[str, str] = {}
    earlier: dict[tuple[str, str], list[Fault]] = {}
    for fault in sorted(faults, key=lambda fault: fault.order):
        known = (earlier.get((fault.attempt, name), ()) for name in _CAUSES.get(fault.detector, ()))
        causes = [one for same in known for one in same if _explains(one, fault)]
        if causes:
            found[fault.id] = min(causes, key=lambda one: one.order).id
        if fault.severity is not Severity.INFO:
            earlier.setdefault((fault.attempt, fault.detector), []).append(fault)
    return found


def _explains(cause: Fault, fault: Fault) -> bool:
    """Whether it does, given that it came first in the same attempt, is above info, and may."""
    effects = EXPLAINS[cause.detector]
    far = fault.first_step > cause.last_step + REACH_STEPS
    if far and (effects.spreads or cause.detector not in _FOR_GOOD):
        return False
    everywhere = effects.spreads or not cause.places or not fault.places
    return everywhere or not cause.places.isdisjoint(fault.places)


def places_of(fqns: Iterable[str]) -> frozenset[str]:
    """Tensors and the modules that they are in, "" for none left out."""
    names = set(fqns) - {""}
    return frozenset(names | {name.rpartition(".")[0] for name in names} - {""})


def standing(findings: Sequence[Finding]) -> list[Finding]:
    """The open findings that stand for themselves: no open one that is at least as bad explains them. These page."""
    by_id = {finding.id: finding for finding in findings}
    return [
        finding
        for finding in findings
        if finding.status is Status.OPEN and not _is_covered(finding, by_id)
    ]


def _is_covered(finding: Finding, by_id: Mapping[str, Finding]) -> bool:
    cause = by_id.get(finding.caused_by)
    while cause is not None:
        if cause.status is Status.OPEN and cause.severity.rank <= finding.severity.rank:
            return True
        cause = by_id.get(cause.caused_by)
    return False
