"""
Metrics of a run's findings: what alerts are made of, and where their links come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.metrics.block import Sample
from trainvitals_monitor.metrics.copied import Copied
from trainvitals_monitor.metrics.spec import MetricSpec

MAX_NAMED = 32
"""Findings, and tensors that they are about, that are named."""
_KIND = ("run", "detector", "severity")
_KINDS = len(DETECTORS) * len(Severity)

FINDING_METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("trainvitals_finding_active", "gauge", _KIND, "Open findings that no other open one explains and nobody muted; 0 once that ends.", _KINDS),
    MetricSpec("trainvitals_findings_opened", "counter", _KIND, "Findings ever opened in the run.", _KINDS),
    MetricSpec("trainvitals_findings_muted", "gauge", ("run",), "Open findings that no other open one explains, acknowledged or muted."),
    MetricSpec("trainvitals_finding", "info", (*_KIND, "finding", "group", "page"), "An active finding: its id, the pattern of names that its tensors share, and its page.", MAX_NAMED),
    MetricSpec("trainvitals_offender_active", "gauge", (*_KIND, "tensor"), "1 for a tensor that an active finding is about, of the worst findings first.", MAX_NAMED),
)  # fmt: skip


def finding_samples(copied: Copied) -> Iterator[Sample]:
    """Every kind of finding that the run ever had, and the names of those that are active."""
    run = copied.run
    opened = Counter((one.detector, one.severity.value) for one in copied.findings)
    active = Counter((one.detector, one.severity.value) for one in copied.standing)
    for kind in sorted(opened):
        yield "trainvitals_finding_active", (run, *kind), active[kind]
    for kind, count in sorted(opened.items()):
        yield "trainvitals_findings_opened", (run, *kind), count
    yield "trainvitals_findings_muted", (run,), copied.muted
    worst = sorted(copied.standing, key=lambda one: one.severity.rank)
    for one in worst[:MAX_NAMED]:
        page = f"{copied.page}#{one.id}"
        labels = (run, one.detector, one.severity.value, one.id, one.group, page)
        yield "trainvitals_finding", labels, 1
    about = dict.fromkeys(
        (run, one.detector, one.severity.value, tensor) for one in worst for tensor in one.subjects
    )
    for offender in list(about)[:MAX_NAMED]:
        yield "trainvitals_offender_active", offender, 1
