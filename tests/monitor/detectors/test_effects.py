"""
What leads to what: every detector has its place in the table of first causes.
"""

from __future__ import annotations

import pytest

from tests.monitor.test_first_cause import fault
from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.first_cause import EXPLAINS, EXPLAINS_NOTHING, direct_causes, places_of

# cause, what it leads to, whether in whatever tensors
CASCADES = [
    ("load-incomplete", "resume-not-applied", False),
    ("learning-rate-vanished", "parameter-stuck", True),
    ("gradient-vanishing", "gradient-zero", False),
    ("gradient-zero", "norm-collapse", False),
    ("units-alike", "gradient-zero", False),
    ("counter-stuck", "expert-load-imbalance", False),
    ("expert-bias-drift", "router-collapse", True),
    ("router-collapse", "expert-dead", False),
    ("norm-collapse", "loss-at-chance", True),
]


def test_every_detector_has_its_place() -> None:
    """In the table of what explains others, or among those that explain nothing; in one of them."""
    names = {detector.name for detector in DETECTORS}
    assert names == set(EXPLAINS) | EXPLAINS_NOTHING
    assert not set(EXPLAINS) & EXPLAINS_NOTHING


@pytest.mark.parametrize(("cause", "effect", "spreads"), CASCADES)
def test_a_cause_folds_what_it_leads_to(cause: str, effect: str, spreads: bool) -> None:
    """In its own tensors; in others only where the fault spreads; never the other way round."""
    first, then = fault(cause, 5), fault(effect, 9)
    assert direct_causes([first, then]) == {then.id: first.id}
    elsewhere = fault(effect, 9, places=places_of(["head.w"]))
    assert bool(direct_causes([first, elsewhere])) is spreads
    assert not direct_causes([fault(effect, 5), fault(cause, 9)])


def test_a_parting_from_the_reference_stands_for_itself() -> None:
    """It neither explains nor is explained."""
    assert not any("differs-from-reference" in effects.on for effects in EXPLAINS.values())
    for name in EXPLAINS:
        assert not direct_causes([fault(name, 5), fault("differs-from-reference", 9)])
