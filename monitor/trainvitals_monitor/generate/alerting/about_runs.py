"""
Alerts on runs: those that vanish, facts that are late or lost, and two that look at raw series.
"""

from __future__ import annotations

from trainvitals_monitor.generate.alerting.alert_rule import RUN, AlertRule, scraped
from trainvitals_monitor.generate.alerting.by_hand import above, of_run

_OPEN = 'unless on (job, run) trainvitals_run_phase{phase="closed"} == 1'
_CLOSED = {scraped("trainvitals_run_phase", run=RUN, phase="closed"): "1x60"}
_SEEN = scraped("trainvitals_run_last_seen_timestamp_seconds", run=RUN)
_RANKS = scraped("trainvitals_run_ranks", run=RUN)
_REPORTING = scraped("trainvitals_run_ranks_reporting", run=RUN)
_BEHIND = scraped("trainvitals_run_ranks_behind", run=RUN)
_WAITING = scraped("trainvitals_run_waiting_frames", run=RUN)
_DROPPED = scraped("trainvitals_run_dropped_total", run=RUN, what="spool")
_SHARE = scraped("trainvitals_run_agent_share_ratio", run=RUN)
_A = scraped("trainvitals_lora_norm", run=RUN, matrix="a", tensor="wq.lora_A")
_GROWTH = scraped("trainvitals_lora_growth_ratio", run=RUN, tensor="wq.lora_A")
_B = scraped("trainvitals_lora_norm", run=RUN, matrix="b", tensor="wq.lora_B")
_DRIFT = scraped("trainvitals_expert_bias_drift", run=RUN, tensor="moe.expert_bias")
_SPREAD = scraped("trainvitals_expert_bias_spread", run=RUN, tensor="moe.expert_bias")

RUN_ALERTS: tuple[AlertRule, ...] = (
    of_run(
        "run-vanished", "critical", "2m",
        f"{above('run:trainvitals_run_silence_seconds:min', 'run_silence_seconds')} {_OPEN}",
        "A run vanished",
        "Nothing was heard of any of its ranks for {{ $value | humanizeDuration }}, and none said that it ends.",
        "See whether the job is still there. If not, its own log says why: killed, out of memory, a node lost. If it is, see "
        "whether it hangs, and whether its machines reach the monitor: what they measure waits on their disks meanwhile. A run "
        "that was ended on purpose: `trainvitals mute RUN --reason WHY`; this alert ends by itself when the run goes on.",
        firing={_SEEN: "0+60x10 600x50"}, onset=16,
        quiet=({_SEEN: "0+60x60"}, {_SEEN: "0+60x10 600x50", **_CLOSED}),
        said="Nothing was heard of any of its ranks for 8m 0s, and none said that it ends.",
    ),
    of_run(
        "ranks-missing", "warning", "5m",
        f"max by (job, run) (trainvitals_run_ranks - trainvitals_run_ranks_reporting) > 0 {_OPEN}",
        "Ranks of a run are silent",
        "{{ $value | humanize }} of its ranks were not heard of for a minute, while others are. Steps that they have part "
        "in are not judged.",
        "If the run's step still grows, the network or the agent of these ranks is at fault: see the trainers' log for "
        "`trainvitals`. If it stands still, the ranks hang or died: see their nodes.",
        firing={_RANKS: "8x60", _REPORTING: "8x9 6x50"},
        quiet=({_RANKS: "8x60", _REPORTING: "8x60"}, {_RANKS: "8x60", _REPORTING: "8x9 6x50", **_CLOSED}),
        said="2 of its ranks were not heard of for a minute, while others are. Steps that they have part in are not judged.",
    ),
    of_run(
        "rank-behind", "warning", "10m",
        f"max by (job, run) (trainvitals_run_ranks_behind) > 0 {_OPEN}",
        "Ranks of a run are far behind the others",
        "{{ $value | humanize }} of its ranks are more than 64 steps behind the one that is furthest. Nothing is judged "
        "beyond the slowest.",
        "Ranks that train together cannot be so far apart: then it is their frames that are late (TrainvitalsFactsLate says "
        "so too). Where each trains for itself, see what holds up those that are behind.",
        firing={_BEHIND: "0x9 1x50"},
        quiet=({_BEHIND: "0x60"}, {_BEHIND: "0x9 1x50", **_CLOSED}),
        said="1 of its ranks are more than 64 steps behind the one that is furthest. Nothing is judged beyond the slowest.",
    ),
    of_run(
        "facts-late", "warning", "10m",
        "max by (job, run) (trainvitals_run_waiting_frames) > 0",
        "Facts of a run come late",
        "{{ $value | humanize }} frames wait on the trainers' disks, and there were some for ten minutes: "
        "what is wrong now is found when they have come.",
        "If the monitor is behind too (TrainvitalsMonitorBehind), it takes less than is sent: give runs to another monitor, or "
        "raise TRAINVITALS_INTERVAL_S. If not, the way to it is slow or breaks off: see the trainers' log for `trainvitals`.",
        firing={_WAITING: "0x9 40x50"}, quiet=({_WAITING: "0x60"}, {_WAITING: "0x9 40x9 0x40"}),
        said="40 frames wait on the trainers' disks, and there were some for ten minutes: "
        "what is wrong now is found when they have come.",
    ),
    of_run(
        "facts-dropped", "warning", "1m",
        "run:trainvitals_run_dropped:increase15m > 0",
        "Facts of a run are lost",
        '{{ $value | printf "%.0f" }} frames, rows or entries were dropped in the last quarter of an hour: there are gaps in '
        "what is watched, and no fault is found in them.",
        "The label `what` of trainvitals_run_dropped_total says where. `spool`: the monitor was away for longer than the "
        "disk lasts: TRAINVITALS_SPOOL_BYTES. `rows`: more was measured than could be sent: TRAINVITALS_QUEUE_BYTES. `frames`: "
        "the monitor refused them (TrainvitalsFramesRefused), or no disk took them. `late`: a rank's facts came after their step was judged.",
        firing={_DROPPED: "_x10 5+5x49"}, quiet=({_DROPPED: "0x60"},),
        said="10 frames, rows or entries were dropped in the last quarter of an hour: there are gaps in "
        "what is watched, and no fault is found in them.",
    ),
    of_run(
        "agent-costly", "info", "15m",
        above("max by (job, run) (trainvitals_run_agent_share_ratio)", "agent_share_ratio"),
        "The agent takes much of a run's time",
        "It takes {{ $value | humanizePercentage }} of the time of a step; the default budget is 0.5 %.",
        "Nothing, where budget=None was meant. Else report it, with the summary that the agent logs at the end.",
        firing={_SHARE: "0.004x9 0.2x50"}, quiet=({_SHARE: "0.004x60"},),
        said="It takes 20% of the time of a step; the default budget is 0.5 %.",
    ),
    of_run(
        "lora-a-grows", "warning", "2m",
        above("run:trainvitals_lora_a_norm:growth6h", "lora_a_growth"),
        "A LoRA A has grown many times over",
        "Its norm is {{ $value | humanize }} times the smallest of the last six hours: seen from the norms alone, whatever "
        "the detector lora-a-growth says of it.",
        "Check the learning rate, and how the adapters were initialised: docs/detectors.md#lora-a-growth.",
        firing={_A: "1x9 20x50", _GROWTH: "0.1x60"}, quiet=({_A: "1+0.02x60"}, {_B: "0.01x9 1x50"}),
        said="Its norm is 20 times the smallest of the last six hours: seen from the norms alone, whatever "
        "the detector lora-a-growth says of it.",
        tensors="trainvitals_lora_growth_ratio{RUN}", named="wq.lora_A ",
    ),
    of_run(
        "expert-bias-moves-alike", "warning", "10m",
        above("run:trainvitals_expert_bias_drift:alike", "expert_bias_alike"),
        "An expert bias moves for all experts alike",
        "In the last 256 steps its middle moved {{ $value | humanize }} times as far as its elements lie apart: it balances nothing.",
        "Check that the token counts are this step's and of all ranks when the bias is updated.",
        firing={_DRIFT: "0x9 0.256x50", _SPREAD: "0.02x60"},
        quiet=({_DRIFT: "0.03x60", _SPREAD: "0.02+0.002x60"},),
        said="In the last 256 steps its middle moved 12.8 times as far as its elements lie apart: it balances nothing.",
        tensors="abs(trainvitals_expert_bias_drift{RUN})", named="moe.expert_bias ",
    ),
    of_run(
        "expert-bias-apart", "warning", "10m",
        f"{above('run:trainvitals_expert_bias_spread:max', 'expert_bias_spread')}"
        " and deriv(run:trainvitals_expert_bias_spread:max[30m]) > 0",
        "An expert bias runs apart",
        "Its largest and smallest element lie {{ $value | humanize }} apart, farther than sigmoid scores do, and still move.",
        "See docs/detectors.md#expert-bias-drift. A bias on raw logits may be wide by right: then raise "
        "trainvitals:expert_bias_spread:threshold in rules/thresholds.yml.",
        firing={_SPREAD: "0.1x9 1.2+0.01x50"}, quiet=({_SPREAD: "0.1+0.01x60"}, {_SPREAD: "3x60"}),
        said="Its largest and smallest element lie 1.3 apart, farther than sigmoid scores do, and still move.",
        tensors="trainvitals_expert_bias_spread{RUN}", named="moe.expert_bias ",
    ),
)  # fmt: skip
