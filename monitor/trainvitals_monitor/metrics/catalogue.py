"""
METRICS: every metric there is, declared once. Docs, dashboards, rules and the scrape are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainvitals_monitor.metrics.checkpoints import CHECKPOINT_METRICS
from trainvitals_monitor.metrics.findings import FINDING_METRICS
from trainvitals_monitor.metrics.run import RUN_METRICS
from trainvitals_monitor.metrics.service import SERVICE_METRICS
from trainvitals_monitor.metrics.spec import MetricSpec
from trainvitals_monitor.metrics.state import STATE_METRICS
from trainvitals_monitor.metrics.watched import WATCHED_METRICS

METRICS: tuple[MetricSpec, ...] = (
    *RUN_METRICS,
    *FINDING_METRICS,
    *CHECKPOINT_METRICS,
    *WATCHED_METRICS,
    *STATE_METRICS,
    *SERVICE_METRICS,
)

SPECS: Mapping[str, MetricSpec] = {spec.name: spec for spec in METRICS}
"""By name."""
