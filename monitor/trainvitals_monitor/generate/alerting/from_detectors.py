"""
One alert a detector: an open finding above info that no other open one explains, and that nobody muted.
"""

from __future__ import annotations

from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.detectors.detector import Detector
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.generate.alerting.alert_rule import (
    DOCS,
    JOB,
    RUN,
    AlertRule,
    scraped,
    words,
)
from trainvitals_monitor.generate.detectors import sections_of

_SELECTED = 'run=%q,detector=%q,severity=%q}" $labels.run $labels.detector $labels.severity'
_INFO = f'printf "trainvitals_finding_info{{{_SELECTED}'
_OFFENDERS = f'printf "topk(3, trainvitals_offender_active{{{_SELECTED}'.replace('=%q}"', '=%q})"')
_CLEAN = 'printf "trainvitals_checkpoint_last_clean_step{run=%q}" $labels.run'
_PAGE = "https://vitals.example/runs/moe-1#finding-1"


def detector_alerts() -> list[AlertRule]:
    """In the order of the catalogue."""
    return [_alert(detector) for detector in DETECTORS]


def _alert(detector: type[Detector]) -> AlertRule:
    active = "trainvitals_finding_active"
    # A detector of info may say more of a finding, and one that warns may say info: the test takes what would alert.
    severity = "warning" if detector.severity is Severity.INFO else detector.severity.value
    kind = {"run": RUN, "detector": detector.name, "severity": severity}
    named = {
        scraped("trainvitals_finding_info", **kind, finding="finding-1", group="layers.*.w", page=_PAGE): "1x60",
        scraped("trainvitals_offender_active", **kind, tensor="layers.0.w"): "1x60",
        scraped("trainvitals_checkpoint_last_clean_step", run=RUN): "1200x60",
    }  # fmt: skip
    mild = {**kind, "severity": "info"}
    return AlertRule(
        name=f"Trainvitals{words(detector.name)}",
        expr=f'max by (job, run, detector, severity) ({active}{{detector="{detector.name}",severity!="info"}}) > 0',
        hold=detector.alert.hold,
        summary=f"{detector.alert.summary} (run {{{{ $labels.run }}}})",
        description=f"{detector.summary} {{{{ range {_INFO} | query }}}}{{{{ .Labels.group }}}}: "
        f"{{{{ .Labels.page }}}} {{{{ end }}}}",
        action=" ".join(sections_of(detector)["Fix"].split()),
        runbook=f"{DOCS}detectors.md#{detector.name}",
        links={
            "finding_url": f'{{{{ with {_INFO} | query }}}}{{{{ . | first | label "page" }}}}{{{{ end }}}}',
            "tensors": f"{{{{ range {_OFFENDERS} | query }}}}{{{{ .Labels.tensor }}}} {{{{ end }}}}",
            "last_clean_save": f'{{{{ with {_CLEAN} | query }}}}step {{{{ . | first | value | printf "%.0f" }}}}'
            "{{ else }}none known{{ end }}",
        },
        firing={scraped(active, **kind): "0x9 1x50", **named},
        quiet=({scraped(active, **kind): "0x60", **named}, {scraped(active, **mild): "1x60"}),
        labels={**kind, "job": JOB},
        expanded={
            "summary": f"{detector.alert.summary} (run {RUN})",
            "description": f"{detector.summary} layers.*.w: {_PAGE} ",
            "finding_url": _PAGE,
            "tensors": "layers.0.w ",
            "last_clean_save": "step 1200",
        },
    )
