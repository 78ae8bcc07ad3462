"""
Alerts on the monitor itself, and the watchdog.
"""

from __future__ import annotations

from trainvitals_monitor.generate.alerting.alert_rule import JOB, AlertRule, scraped
from trainvitals_monitor.generate.alerting.by_hand import above, of_monitor

_UP = scraped("up")
_READY = scraped("trainvitals_monitor_ready")
_LAG = scraped("trainvitals_monitor_ingest_lag_seconds")
_ERRORS = scraped("trainvitals_monitor_errors_total", stage="judge")
_FAILURES = scraped("trainvitals_detector_failures_total", detector="slot-replaced")
_REFUSED = scraped("trainvitals_monitor_frames_refused_total", reason="unauthorized")
_BUSY = scraped("trainvitals_monitor_frames_refused_total", reason="busy")
_AWAY = scraped("trainvitals_monitor_frames_refused_total", reason="unavailable")
_FAILED = scraped("trainvitals_monitor_notifications_total", outcome="failed")
_UNSENT = scraped("trainvitals_monitor_notifications_waiting")
_LOST = scraped("trainvitals_monitor_notifications_total", outcome="dropped")
_LEFT_OUT = scraped("trainvitals_monitor_series_left_out")
_RUNS_LEFT_OUT = scraped("trainvitals_runs_left_out")

MONITOR_ALERTS: tuple[AlertRule, ...] = (
    of_monitor(
        "monitor-down", "critical", "2m",
        f'min by (job) (up{{job=~"{JOB}.*"}}) == 0 or absent(up{{job=~"{JOB}.*"}})',
        "The trainvitals monitor cannot be scraped",
        "Nothing of its runs is judged, and no other alert of it can be trusted. Training goes on.",
        "See whether the process runs and port 8420 answers (`trainvitals doctor`); start it again on the same store. Agents "
        "write to their disks meanwhile, and what they send then is judged. If it is up, Prometheus lacks the read token.",
        firing={_UP: "1x9 0x50"}, quiet=({_UP: "1x60"},),
    ),
    of_monitor(
        "monitor-not-ready", "critical", "5m",
        "min by (job) (trainvitals_monitor_ready) == 0",
        "The trainvitals monitor takes no frames",
        "It is up and refuses what agents send: the store cannot be written, or it is still starting. Nothing is judged "
        "meanwhile; agents write to their disks.",
        "`curl MONITOR/readyz` says why, and so does its log: a full disk, most likely. Make room, and it goes on by itself.",
        firing={_READY: "1x9 0x50"}, quiet=({_READY: "1x60"},),
    ),
    of_monitor(
        "monitor-behind", "warning", "5m",
        above("max by (job) (trainvitals_monitor_ingest_lag_seconds)", "ingest_lag_seconds"),
        "The trainvitals monitor is behind",
        "Frames wait {{ $value | humanizeDuration }} before they are judged and stored: findings come that much later.",
        "`Time by stage` on the dashboard Monitor says what takes the time. `store`: the disk. `judge` or `decode`: one core "
        "is full; give runs to another monitor, or raise TRAINVITALS_INTERVAL_S.",
        firing={_LAG: "0.1x9 90x50"}, quiet=({_LAG: "2x60"},),
        said="Frames wait 1m 30s before they are judged and stored: findings come that much later.",
    ),
    of_monitor(
        "monitor-faults", "warning", "1m",
        "sum by (job, stage) (increase(trainvitals_monitor_errors_total[15m])) > 0",
        "The trainvitals monitor had a fault of its own",
        "At the stage `{{ $labels.stage }}`. `store`: a transaction failed, and what it held is sent again. `judge`: a frame "
        "was stored, and not judged. `read-back`: a stored frame cannot be read.",
        "Each is in its log. `store`: room on the disk, and who else holds the file. The others are bugs: report them, with the log.",
        labels={"job": JOB, "stage": "judge"}, firing={_ERRORS: "0x9 1x50"}, quiet=({_ERRORS: "3x60"},),
        said="At the stage `judge`. `store`: a transaction failed, and what it held is sent again. `judge`: a frame "
        "was stored, and not judged. `read-back`: a stored frame cannot be read.",
    ),
    of_monitor(
        "detector-failing", "warning", "1m",
        "sum by (job, detector) (increase(trainvitals_detector_failures_total[15m])) > 0",
        "A detector raises",
        "{{ $labels.detector }} finds nothing in runs for which it raises. The other detectors go on.",
        "A bug: report it, with the traceback in the monitor's log. If it should be quiet meanwhile, switch the detector off: "
        "docs/contract.md.",
        labels={"job": JOB, "detector": "slot-replaced"},
        firing={_FAILURES: "0x9 1+1x50"}, quiet=({_FAILURES: "3x60"},),
        said="slot-replaced finds nothing in runs for which it raises. The other detectors go on.",
    ),
    of_monitor(
        "frames-refused", "warning", "1m",
        'sum by (job, reason) (increase(trainvitals_monitor_frames_refused_total{reason!~"busy|unavailable"}[15m])) > 0',
        "The monitor refuses frames",
        "An agent sends what the monitor does not take, for the reason `{{ $labels.reason }}`: that run is not watched.",
        "The trainer's log has the monitor's answer. `unauthorized`: a wrong token. `conflict`: two jobs of one run name. "
        "`wrong-version`: upgrade the monitor. `too-large`, `over-limit`: beyond the bounds of docs/operating.md. "
        "Others: no agent of ours sends that; see who does.",
        labels={"job": JOB, "reason": "unauthorized"},
        firing={_REFUSED: "0x9 1+1x50"}, quiet=({_BUSY: "0+1x60"}, {_AWAY: "0+1x60"}),
        said="An agent sends what the monitor does not take, for the reason `unauthorized`: that run is not watched.",
    ),
    of_monitor(
        "notifications-failing", "warning", "5m",
        'sum by (job) (increase(trainvitals_monitor_notifications_total{outcome="failed"}[15m])) > 0'
        " and on (job) sum by (job) (trainvitals_monitor_notifications_waiting) > 0",
        "Notifications of the monitor do not get through",
        "What `serve --notify` has to tell was refused or not answered, again and again: people do not hear of findings.",
        "The monitor's log says which of the URLs it is. Try it: `apprise -t test -b test URL`. What waits is sent as soon as it "
        "is taken, for a day.",
        firing={_FAILED: "0x9 1+1x50", _UNSENT: "0x9 1x50"},
        quiet=({_FAILED: "0x9 1x50", _UNSENT: "0x9 1 0x49"}, {_FAILED: "0x60", _UNSENT: "1x60"}),
    ),
    of_monitor(
        "notifications-lost", "warning", "0m",
        'sum by (job) (increase(trainvitals_monitor_notifications_total{outcome="dropped"}[1h])) > 0',
        "Notifications of the monitor were lost",
        '{{ $value | printf "%.0f" }} could not be delivered for a day, or had no room: nobody was told.',
        "Look at the runs' pages for what was found; mend the URL that the monitor's log names.",
        firing={_LOST: "0x9 3x50"}, quiet=({_LOST: "3x60"},),
        said="3 could not be delivered for a day, or had no room: nobody was told.",
    ),
    of_monitor(
        "runs-left-out", "warning", "10m",
        "max by (job) (trainvitals_runs_left_out) > 0",
        "Runs are left out of /metrics",
        "{{ $value | humanize }} are, the oldest: more train at once than have series of their own, and no alert tells of their "
        "findings.",
        "Start another monitor for some of the runs, with a store and a port of its own. Their pages and the API have everything.",
        firing={_RUNS_LEFT_OUT: "0x9 3x50"}, quiet=({_RUNS_LEFT_OUT: "0x60"},),
        said="3 are, the oldest: more train at once than have series of their own, and no alert tells of their findings.",
    ),
    of_monitor(
        "series-left-out", "info", "60m",
        "max by (job) (trainvitals_monitor_series_left_out) > 0",
        "Series are left out of /metrics",
        "{{ $value | humanize }} are: a cap is reached, and trainvitals_run_series_left_out says of which run. Findings are "
        "not affected.",
        "Nothing: the run's page and the API have everything.",
        firing={_LEFT_OUT: "0x9 80x90"}, quiet=({_LEFT_OUT: "0x90"},),
        said="80 are: a cap is reached, and trainvitals_run_series_left_out says of which run. Findings are not affected.",
    ),
    of_monitor(
        "watchdog", "none", "0m",
        "vector(1)",
        "Alerts of trainvitals get through",
        "It always fires: whoever waits for it learns that the way from Prometheus is broken when it stays away.",
        "Nothing while it comes. When it stays away: see Prometheus, Alertmanager, and what lies between them and you.",
        labels={}, onset=0, firing={}, quiet=(),
    ),
)  # fmt: skip
