"""
docs/metrics.md, from the monitor's METRICS.
"""

from __future__ import annotations

from trainvitals_monitor.generate.markdown import GENERATED, table
from trainvitals_monitor.metrics import MAX_SERIES, MAX_SERIES_PER_RUN, METRICS

_INTRODUCTION = """
# Metrics

What `GET /metrics` exposes for Prometheus, as its text format or as OpenMetrics, compressed where that is accepted.
Where the monitor wants a read token, give it to Prometheus as `authorization: credentials_file`.

The number of series is bounded by construction, whatever the model: the last column has the most series that there can
be of a metric (for each run, where `run` is a label). A run has at most {per_run:,}, all runs together {in_all:,}, newest
runs first; what is left out is counted. Where more tensors of a kind are watched than have places, half of the places lie
evenly over the model's depth, and the others go to the worst as they are now. No step, time or pointer is ever a label. A run's series end 15 minutes after
it was closed, and a day after the last word of one that vanished.

A **layer** is a tensor's name up to its first number, padded so that layers sort (`layers.03`), or its module where there
is no number. A **role** is what the name says that a tensor is for. Statistics of a group are of its tensors' last looks,
however old these are (`trainvitals_run_oldest_look_steps`).

```yaml
scrape_configs:
  - job_name: trainvitals
    static_configs:
      - targets: ["127.0.0.1:8420"]
```

"""


def metrics_page() -> str:
    """The page's text."""
    rows = [
        (
            f"`{spec.exposed}`",
            spec.type,
            ", ".join(f"`{label}`" for label in spec.labels) or "-",
            spec.help,
            str(spec.bound),
        )
        for spec in METRICS
    ]
    head = ("metric", "type", "labels", "meaning", "series")
    return (
        GENERATED.format(source="trainvitals_monitor/metrics/")
        + _INTRODUCTION.format(per_run=MAX_SERIES_PER_RUN, in_all=MAX_SERIES)
        + table(head, rows)
    )
