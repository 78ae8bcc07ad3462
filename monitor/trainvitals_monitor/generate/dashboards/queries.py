"""
PromQL that can only name what the metrics table holds: `select` looks every metric and label up in METRICS, so that a
dashboard which asks for something else cannot be generated.
"""

from __future__ import annotations

from trainvitals_monitor.metrics import METRICS, MetricSpec

ALWAYS = ("job", "instance")
"""What Prometheus adds to every series, and every dashboard chooses by."""
_BY_EXPOSED = {spec.exposed: spec for spec in METRICS}
_CHOSEN = ("run", "layer")


def spec_of(exposed: str) -> MetricSpec:
    """The metric that queries call by this name."""
    try:
        return _BY_EXPOSED[exposed]
    except KeyError:
        raise ValueError(f"METRICS has no metric {exposed!r}") from None


def select(exposed: str, **matchers: str) -> str:
    """
    A selector of the metric's series, as the dashboard's variables choose: job, instance, and run and layer where the
    metric has them. `matchers`: label="value" (a leading "~" makes it a regular expression, None leaves the label out).
    """
    spec = spec_of(exposed)
    chosen = {label: f"~${label}" for label in (*ALWAYS, *(c for c in _CHOSEN if c in spec.labels))}
    for label, value in matchers.items():
        if label not in spec.labels:
            raise ValueError(f"{exposed} has no label {label!r}; it has {spec.labels}")
        chosen[label] = value
    return f"{exposed}{{{', '.join(_matcher(*item) for item in chosen.items())}}}"


def per_second(exposed: str, **matchers: str) -> str:
    """How fast a counter grows."""
    return f"rate({_counter(exposed, matchers)}[$__rate_interval])"


def added(exposed: str, **matchers: str) -> str:
    """How much a counter grew in the panel's interval."""
    return f"increase({_counter(exposed, matchers)}[$__rate_interval])"


def _counter(exposed: str, matchers: dict[str, str]) -> str:
    if spec_of(exposed).type != "counter":
        raise ValueError(f"{exposed} is no counter")
    return select(exposed, **matchers)


def _matcher(label: str, value: str) -> str:
    if value.startswith("~"):
        return f'{label}=~"{value[1:]}"'
    return f'{label}="{value}"'
