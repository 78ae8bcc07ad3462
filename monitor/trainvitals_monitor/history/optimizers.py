"""
What several ranks said of their optimizers, as one report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainvitals.frame import OptimizersSeen


def merged(reports: Sequence[OptimizersSeen | None]) -> OptimizersSeen | None:
    """The first one, and behind it the groups of those that hold something else; None if nobody said anything."""
    made: OptimizersSeen | None = None
    seen: list[list[list[int]]] = []
    for report in reports:
        if report is None or report.group_tensors in seen:
            continue
        seen.append(report.group_tensors)
        made = report if made is None else _joined(made, report)
    return made


def _joined(one: OptimizersSeen, other: OptimizersSeen) -> OptimizersSeen:
    """Both: optimizers, groups and foreign parameters of the other are counted on behind those of the one."""
    groups = len(one.group_tensors)
    foreign = [
        replace(parameter, group=parameter.group + groups if parameter.group >= 0 else -1)
        for parameter in other.foreign
    ]
    return replace(
        one,
        step=max(one.step, other.step),
        optimizers=[*one.optimizers, *other.optimizers],
        group_optimizer=[
            *one.group_optimizer,
            *(number + len(one.optimizers) for number in other.group_optimizer),
        ],
        group_tensors=[*one.group_tensors, *other.group_tensors],
        foreign=[*one.foreign, *foreign],
        masters=one.masters or other.masters,
        carries=one.carries or other.carries,
        default_lr=[*_defaults(one), *_defaults(other)],
    )


def _defaults(seen: OptimizersSeen) -> list[float | None]:
    return seen.default_lr or [None] * len(seen.optimizers)
