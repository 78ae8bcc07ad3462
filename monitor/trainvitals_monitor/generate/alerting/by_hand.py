"""
Alerts that no detector gives: runs that vanish, facts that are lost, the monitor's own health, and two on raw series.
"""

from __future__ import annotations

from typing import Any

from trainvitals_monitor.generate.alerting.alert_rule import (
    DOCS,
    JOB,
    RUN,
    AlertRule,
    scraped,
    words,
)

_RUN_LABELS = {"job": JOB, "run": RUN}
_OPEN = 'unless on (job, run) trainvitals_run_phase{phase="closed"} == 1'
_CLOSED = {scraped("trainvitals_run_phase", run=RUN, phase="closed"): "1x60"}


def _above(recorded: str, threshold: str) -> str:
    return f"{recorded} > on () group_left () trainvitals:{threshold}:threshold"


def _alert(
    name: str, severity: str, hold: str, expr: str, summary: str, description: str, advice: str, **more: Any
) -> AlertRule:  # fmt: skip
    """`name` as a detector's would be; a run's alert says which one."""
    fields: dict[str, Any] = {"labels": _RUN_LABELS, "detector": name, **more}
    if "run" in fields["labels"]:
        fields["expanded"] = {"summary": f"{summary} (run {RUN})", **fields.get("expanded", {})}
        summary = f"{summary} (run {{{{ $labels.run }}}})"
        page = 'printf "trainvitals_run_info{run=%q}" $labels.run | query'
        fields["links"] = {
            "run_url": f'{{{{ with {page} }}}}{{{{ . | first | label "page" }}}}{{{{ end }}}}'
        }
        address = "https://vitals.example/runs/moe-1"
        fields["firing"] = {
            **fields["firing"],
            scraped("trainvitals_run_info", run=RUN, page=address): "1x60",
        }
        fields["expanded"] = {**fields["expanded"], "run_url": address}
    full = f"Trainvitals{words(name)}"
    return AlertRule(
        name=full,
        expr=expr,
        hold=hold,
        severity=severity,
        summary=summary,
        description=description,
        advice=advice,
        runbook=f"{DOCS}alerts.md#{full.lower()}",
        **fields,
    )


_SEEN = scraped("trainvitals_run_last_seen_timestamp_seconds", run=RUN)

RUN_ALERTS: tuple[AlertRule, ...] = (
    _alert(
        "run-vanished", "critical", "2m",
        f"{_above('run:trainvitals_run_silence_seconds:min', 'run_silence_seconds')} {_OPEN}",
        "A run vanished",
        "No rank of it was heard of for minutes, and none said that it ends.",
        "Look at the job: killed, out of memory, a node that is gone, or a network that is. Agents that cannot reach the "
        "monitor write to their disk and send later.",
        firing={_SEEN: "0+60x10 600x50"}, onset=16,
        quiet=({_SEEN: "0+60x60"}, {_SEEN: "0+60x10 600x50", **_CLOSED}),
    ),
    _alert(
        "ranks-missing", "warning", "5m",
        f"max by (job, run) (trainvitals_run_ranks - trainvitals_run_ranks_reporting) > 0 {_OPEN}",
        "Ranks of a run are silent",
        "Other ranks of the run are heard of, these are not.",
        "Look at the nodes of the silent ranks; the run's page names those that report.",
        firing={scraped("trainvitals_run_ranks", run=RUN): "8x60", scraped("trainvitals_run_ranks_reporting", run=RUN): "8x9 6x50"},
        quiet=({scraped("trainvitals_run_ranks", run=RUN): "8x60", scraped("trainvitals_run_ranks_reporting", run=RUN): "8x60"},),
    ),
    _alert(
        "rank-behind", "warning", "10m",
        f"max by (job, run) (trainvitals_run_ranks_behind) > 0 {_OPEN}",
        "A rank is far behind the others",
        "It is more than 64 steps behind the one that is furthest.",
        "If the ranks train together, its agent cannot send; else see what holds that rank up.",
        firing={scraped("trainvitals_run_ranks_behind", run=RUN): "0x9 1x50"},
        quiet=({scraped("trainvitals_run_ranks_behind", run=RUN): "0x60"},),
    ),
    _alert(
        "facts-dropped", "warning", "1m",
        "run:trainvitals_run_dropped:increase15m > 0",
        "Facts of a run are lost",
        "Agents dropped what they could not send, or it came too late to be judged: there are gaps in what is watched.",
        "See whether the monitor keeps up (TrainvitalsMonitorBehind), and give the spool more room.",
        firing={scraped("trainvitals_run_dropped_total", run=RUN, what="frames"): "0x9 5+5x50"},
        quiet=({scraped("trainvitals_run_dropped_total", run=RUN, what="frames"): "7x60"},),
    ),
    _alert(
        "agent-costly", "info", "15m",
        _above("max by (job, run) (trainvitals_run_agent_share_ratio)", "agent_share_ratio"),
        "The agent takes much of a run's time",
        "More than ten times the default budget.",
        "Wanted with budget=None; else tell us, with the summary that the agent logs at the end.",
        firing={scraped("trainvitals_run_agent_share_ratio", run=RUN): "0.004x9 0.2x50"},
        quiet=({scraped("trainvitals_run_agent_share_ratio", run=RUN): "0.004x60"},),
    ),
    _alert(
        "lora-a-grows", "warning", "2m",
        _above("run:trainvitals_lora_a_norm:growth6h", "lora_a_growth"),
        "A LoRA A has grown many times over",
        "From the norms alone, whatever the detector says of it.",
        "Check the learning rate and how the adapters were initialised: docs/detectors.md#lora-a-growth.",
        firing={scraped("trainvitals_lora_norm", run=RUN, matrix="a", tensor="wq.lora_A"): "1x9 20x50"},
        quiet=(
            {scraped("trainvitals_lora_norm", run=RUN, matrix="a", tensor="wq.lora_A"): "1+0.02x60"},
            {scraped("trainvitals_lora_norm", run=RUN, matrix="b", tensor="wq.lora_B"): "0.01x9 1x50"},
        ),
    ),
    _alert(
        "expert-bias-moves-alike", "warning", "10m",
        _above("run:trainvitals_expert_bias_drift:alike256", "expert_bias_alike"),
        "An expert bias moves for all experts alike",
        "Its middle moves much farther than its elements lie apart: it balances nothing.",
        "Check that the token counts are this step's and of all ranks when the bias is updated.",
        firing={
            scraped("trainvitals_expert_bias_drift", run=RUN, tensor="moe.expert_bias"): "0x9 0.001x50",
            scraped("trainvitals_expert_bias_spread", run=RUN, tensor="moe.expert_bias"): "0.02x60",
        },
        quiet=({
            scraped("trainvitals_expert_bias_drift", run=RUN, tensor="moe.expert_bias"): "0.0001x60",
            scraped("trainvitals_expert_bias_spread", run=RUN, tensor="moe.expert_bias"): "0.02+0.002x60",
        },),
    ),
    _alert(
        "expert-bias-apart", "warning", "10m",
        f"{_above('run:trainvitals_expert_bias_spread:max', 'expert_bias_spread')}"
        " and deriv(run:trainvitals_expert_bias_spread:max[30m]) > 0",
        "An expert bias runs apart",
        "Its largest and smallest element lie farther apart than scores do, and still move.",
        "See docs/detectors.md#expert-bias-drift; a bias on raw logits may be wide by right: raise the threshold.",
        firing={scraped("trainvitals_expert_bias_spread", run=RUN, tensor="moe.expert_bias"): "0.1x9 1.2+0.01x50"},
        quiet=(
            {scraped("trainvitals_expert_bias_spread", run=RUN, tensor="moe.expert_bias"): "0.1+0.01x60"},
            {scraped("trainvitals_expert_bias_spread", run=RUN, tensor="moe.expert_bias"): "3x60"},
        ),
    ),
)  # fmt: skip

_JOB_LABELS = {"job": JOB}
_UP = scraped("up")

MONITOR_ALERTS: tuple[AlertRule, ...] = (
    _alert(
        "monitor-down", "critical", "2m",
        f'max by (job) (up{{job="{JOB}"}}) == 0 or absent(up{{job="{JOB}"}})',
        "The trainvitals monitor cannot be scraped",
        "Nothing is judged, and no other alert of it can be trusted.",
        "Start it again: agents write to their disks meanwhile, and it judges what they send then.",
        labels=_JOB_LABELS, firing={_UP: "1x9 0x50"}, quiet=({_UP: "1x60"},),
    ),
    _alert(
        "monitor-not-ready", "critical", "5m",
        "max by (job) (trainvitals_monitor_ready) == 0",
        "The trainvitals monitor takes no frames",
        "It is up and refuses what agents send: the store cannot be written, or it is still starting.",
        "Its log and /readyz say why: a full disk, most likely.",
        labels=_JOB_LABELS,
        firing={scraped("trainvitals_monitor_ready"): "1x9 0x50"}, quiet=({scraped("trainvitals_monitor_ready"): "1x60"},),
    ),
    _alert(
        "monitor-behind", "warning", "5m",
        _above("max by (job) (trainvitals_monitor_ingest_lag_seconds)", "ingest_lag_seconds"),
        "The trainvitals monitor is behind",
        "Frames wait long before they are judged and stored.",
        "See stage:trainvitals_monitor_ingest_seconds:rate5m for what takes the time; give runs to another monitor.",
        labels=_JOB_LABELS,
        firing={scraped("trainvitals_monitor_ingest_lag_seconds"): "0.1x9 90x50"},
        quiet=({scraped("trainvitals_monitor_ingest_lag_seconds"): "2x60"},),
    ),
    _alert(
        "monitor-faults", "warning", "1m",
        "sum by (job, stage) (increase(trainvitals_monitor_errors_total[15m])) > 0",
        "The trainvitals monitor had a fault of its own",
        "Each is in its log, with a traceback; what was sent meanwhile is sent again.",
        "Report it, with the log.",
        labels={**_JOB_LABELS, "stage": "judge"},
        firing={scraped("trainvitals_monitor_errors_total", stage="judge"): "0x9 1x50"},
        quiet=({scraped("trainvitals_monitor_errors_total", stage="judge"): "3x60"},),
    ),
    _alert(
        "detector-failing", "warning", "1m",
        "sum by (job, detector) (increase(trainvitals_detector_failures_total[15m])) > 0",
        "A detector raises",
        "It says nothing of runs for which it raises; the others go on.",
        "Report it, with the monitor's log; switch it off meanwhile: docs/contract.md.",
        detector="", labels={**_JOB_LABELS, "detector": "slot-replaced"},
        firing={scraped("trainvitals_detector_failures_total", detector="slot-replaced"): "0x9 1+1x50"},
        quiet=({scraped("trainvitals_detector_failures_total", detector="slot-replaced"): "3x60"},),
    ),
    _alert(
        "frames-refused", "warning", "1m",
        'sum by (job, reason) (increase(trainvitals_monitor_frames_refused_total{reason!="busy"}[15m])) > 0',
        "The monitor refuses frames",
        "An agent sends what the monitor does not take: the reason is a label.",
        "A wrong token, two jobs of one run name, or versions that are too far apart: the monitor's answer says which.",
        labels={**_JOB_LABELS, "reason": "unauthorized"},
        firing={scraped("trainvitals_monitor_frames_refused_total", reason="unauthorized"): "0x9 1+1x50"},
        quiet=({scraped("trainvitals_monitor_frames_refused_total", reason="busy"): "0+1x60"},),
    ),
    _alert(
        "series-left-out", "info", "60m",
        "max by (job) (trainvitals_monitor_series_left_out) > 0",
        "Series are left out of /metrics",
        "A cap is reached: trainvitals_run_series_left_out says of which run. Findings are not affected.",
        "None; the run's page and the API have everything.",
        labels=_JOB_LABELS,
        firing={scraped("trainvitals_monitor_series_left_out"): "0x9 80x90"},
        quiet=({scraped("trainvitals_monitor_series_left_out"): "0x90"},),
    ),
    _alert(
        "watchdog", "none", "0m",
        "vector(1)",
        "Alerts of trainvitals get through",
        "It always fires: whoever waits for it learns that the way from Prometheus is broken when it stays away.",
        "None while it comes. When it stays away: see Prometheus and Alertmanager.",
        labels={}, onset=0, firing={}, quiet=(),
    ),
)  # fmt: skip
