"""
What Prometheus gets: METRICS is every metric there is, and a `Scrape` fills them from the monitor.

The number of series is bounded by construction: a few per run, role, layer and watched tensor, each kind with a bound
of its own; a run has MAX_SERIES_PER_RUN at most, all runs MAX_SERIES. What is left out is counted. No step, time or
pointer is ever a label.
"""

from trainvitals_monitor.metrics.catalogue import METRICS
from trainvitals_monitor.metrics.exposition import OPENMETRICS, TEXT, wants_openmetrics
from trainvitals_monitor.metrics.scrape import MAX_SERIES, MAX_SERIES_PER_RUN, Scrape
from trainvitals_monitor.metrics.spec import MetricSpec

__all__ = [
    "MAX_SERIES",
    "MAX_SERIES_PER_RUN",
    "METRICS",
    "OPENMETRICS",
    "TEXT",
    "MetricSpec",
    "Scrape",
    "wants_openmetrics",
]
