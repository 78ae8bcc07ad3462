"""
What an attempt leaves to the next one: its last save, its last values, its names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainvitals_monitor.history.checkpoints import Checkpoint
from trainvitals_monitor.history.schedule import Schedule
from trainvitals_monitor.history.traces import Traces


@dataclass(frozen=True, kw_only=True)
class Previous:
    """
    The attempt before this one, as far as it came (it may have been killed).

    Its tensor indices are not this attempt's: `tensors` maps FQN -> index in its own table, which is what the
    checkpoints' `tensors` refer to. `values`: statistic -> {FQN: last value}; only tensors that were looked at.
    `last_save`: the last successful save of a model's state, in this attempt or, if it saved none, in one before it
    (`last_save_attempt` says which; `last_save_fqns` are the FQNs of its entries, "" for none).
    `tied`: FQN -> the FQN that it shared its tensor with.
    `origin`: each tensor as the run's first attempt began with it, after `origin_step`; `end`: as last looked at or
    truly saved in this one. `pace`: FQN -> the usual update norm of a step, of late. `schedules`: by FQN.
    `leads`: FQN -> how far its optimizer's counter is ahead of our step numbers.
    """

    attempt: str
    last_step: int
    base_step: int
    tensors: Mapping[str, int]
    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    raw_fqns: frozenset[str]
    values: Mapping[str, Mapping[str, float]]
    last_checkpoints: list[Checkpoint] = field(default_factory=list)
    last_save: Checkpoint | None = None
    last_save_attempt: str = ""
    last_save_fqns: list[str] = field(default_factory=list)
    tied: Mapping[str, str] = field(default_factory=dict)
    origin: Traces = field(default_factory=Traces)
    origin_step: int = 0
    end: Traces = field(default_factory=Traces)
    pace: Mapping[str, float] = field(default_factory=dict)
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    leads: Mapping[str, float] = field(default_factory=dict)

    @property
    def saved_keys(self) -> frozenset[str]:
        """The raw keys of the last save; empty if there was none."""
        return frozenset(self.last_save.keys) if self.last_save else frozenset()
