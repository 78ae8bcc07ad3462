"""
docs/metrics.md, from the monitor's METRICS.
"""

from __future__ import annotations

from trainvitals_monitor.generate.markdown import GENERATED, table
from trainvitals_monitor.metrics import METRICS

_INTRODUCTION = """
# Metrics

What `GET /metrics` exposes for Prometheus. The number of series is bounded: no tensor, step or file name is ever a
label. Where the monitor wants a read token, give it to Prometheus as `authorization: credentials_file`.

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
        )
        for spec in METRICS
    ]
    head = ("metric", "type", "labels", "meaning")
    return (
        GENERATED.format(source="trainvitals_monitor/metrics.py")
        + _INTRODUCTION
        + table(head, rows)
    )
