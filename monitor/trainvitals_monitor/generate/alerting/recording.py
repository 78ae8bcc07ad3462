"""
Recording rules, and the thresholds of the alerts that are no detector's: one file, for operators to edit.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AlertThreshold:
    """A number that alerts compare with, as a series that holds it."""

    record: str
    value: float
    why: str


@dataclass(frozen=True)
class Recording:
    """A series that Prometheus makes of others; named level:metric:operation."""

    record: str
    expr: str


THRESHOLDS: tuple[AlertThreshold, ...] = (
    AlertThreshold("trainvitals:run_silence_seconds:threshold", 300, "an agent speaks every few seconds, also while nothing is trained"),
    AlertThreshold("trainvitals:lora_a_growth:threshold", 10, "times its smallest norm in six hours; training seldom doubles an A"),
    AlertThreshold("trainvitals:expert_bias_alike:threshold", 4, "moves of the middle over the spread: a bias that balances moves both ways"),
    AlertThreshold("trainvitals:expert_bias_spread:threshold", 1, "sigmoid scores span 1: beyond it the bias alone decides"),
    AlertThreshold("trainvitals:agent_share_ratio:threshold", 0.05, "ten times the default budget"),
    AlertThreshold("trainvitals:ingest_lag_seconds:threshold", 30, "agents wait for an answer, then write to their disk"),
)  # fmt: skip

RECORDINGS: tuple[Recording, ...] = (
    Recording("run_severity:trainvitals_finding_active:sum", "sum by (job, run, severity) (trainvitals_finding_active)"),
    Recording("run:trainvitals_run_silence_seconds:min", "time() - max by (job, run) (trainvitals_run_last_seen_timestamp_seconds)"),
    Recording("run:trainvitals_run_dropped:increase15m", "sum by (job, run) (increase(trainvitals_run_dropped_total[15m]) > 0 or (trainvitals_run_dropped_total unless max_over_time(trainvitals_run_dropped_total[1d] offset 15m)))"),
    Recording("run:trainvitals_run_frames:rate5m", "sum by (job, run) (rate(trainvitals_run_frames_total[5m]))"),
    Recording("run:trainvitals_lora_a_norm:growth6h", 'max by (job, run) (trainvitals_lora_norm{matrix="a"} / min_over_time(trainvitals_lora_norm{matrix="a"}[6h]))'),
    Recording("run:trainvitals_expert_bias_drift:alike", "max by (job, run) (abs(trainvitals_expert_bias_drift) / trainvitals_expert_bias_spread)"),
    Recording("run:trainvitals_expert_bias_spread:max", "max by (job, run) (trainvitals_expert_bias_spread)"),
    Recording("stage:trainvitals_monitor_ingest_seconds:rate5m", "sum by (job, stage) (rate(trainvitals_monitor_ingest_seconds_total[5m]))"),
)  # fmt: skip
