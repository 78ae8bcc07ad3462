"""
What the API answers, as pydantic models: they make the OpenAPI document, and nothing else decides an answer's form.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = float | Literal["nan", "inf", "-inf"]
"""JSON has no NaN and no infinity: they are these words."""


class Model(BaseModel):
    """The base: what is not declared is a bug of ours."""

    model_config = ConfigDict(extra="forbid")


class Problem(Model):
    """Every answer of 400 and above."""

    error: str = Field(
        description="short and fixed: what a program looks at", examples=["invalid-columns"]
    )
    detail: str = Field(description="what was wrong, and what to do, for people")


class FindingOut(Model):
    """A detector's claim about a run; steps are the trainer's own where it told them."""

    id: str
    run: str
    attempt: str
    detector: str
    severity: Literal["critical", "warning", "info"]
    group: str = Field(description="the FQN pattern that the subjects share, or 'run'")
    subjects: list[str] = Field(description="canonical FQNs, first wrong first")
    first_step: int = Field(description="the first step whose state is wrong")
    last_good_step: int = Field(description="the last step that was looked at and right; -1: none")
    last_step: int = Field(description="the last step at which it was still so")
    status: Literal["open", "resolved"]
    message: str
    advice: str
    evidence: list[dict[str, Any]]
    ranks: list[int]
    last_clean_checkpoint: str
    caused_by: str = Field(
        description="id of the finding that explains this one; '' if it stands for itself"
    )
    manual: str
    muted: str = Field("", description="why it is acknowledged or muted; '' if it is not")


class Accepted(Model):
    """A frame is safe on disk (or was already: `duplicate`)."""

    accepted: Literal[True]
    duplicate: bool
    findings: list[FindingOut] = Field(description="the run's open findings, worst first")
    page: str = Field(description="where people look at the run")


class FindingCounts(Model):
    """Open findings by severity, without those that another open one explains."""

    critical: int = 0
    warning: int = 0
    info: int = 0


class RunOut(Model):
    """One run, in short."""

    run: str
    attempt: str = Field(description="key of the latest attempt")
    attempts: int
    phase: str
    step: int = Field(description="the last judged step, as the trainer counts; -1: none yet")
    world_size: int
    ranks_reporting: int
    tensors: int
    coverage: float = Field(description="share of tensors looked at so far in this attempt, 0 to 1")
    loss: Number | None
    lr: Number | None = Field(description="the largest learning rate in use")
    step_seconds: Number | None
    last_seen: float = Field(description="Unix seconds, by the agents' clocks")
    findings: FindingCounts
    page: str


class Runs(Model):
    """Runs, last seen first."""

    runs: list[RunOut]


class AttemptOut(Model):
    """One lifetime of a run's process group."""

    attempt: str
    world_size: int
    started_at: float
    judged_through: int = Field(description="our step; -1: none yet")


class RunDetail(RunOut):
    """One run."""

    all_attempts: list[AttemptOut]
    scalars: list[str]
    detail: dict[str, Any] = Field(
        description="coverage: what was looked at, and what was never exercised"
    )


class Findings(Model):
    """Findings of a run: open before resolved, worst first, then by first step."""

    findings: list[FindingOut]


class ComparedOut(Model):
    """A run beside another one: how closely they could be compared, and where they part."""

    run: str
    reference: str
    mode: Literal["nothing", "bit-exact", "close", "statistical"]
    steps: int = Field(description="compared")
    equal_steps: int = Field(description="at which nothing differed at all")
    largest_difference: float = Field(description="relative, of any statistic at any step")
    findings: list[FindingOut] = Field(description="of differs-from-reference alone, first first")


class TensorOut(Model):
    """One tensor of the latest attempt."""

    fqn: str
    raw_fqn: str
    role: str
    dtype: str
    numel: int
    kind: Literal["param", "buffer"]
    trainable: bool
    latest: dict[str, Number] = Field(description="last value of each statistic that was looked at")


class Tensors(Model):
    """One page of a run's tensors, in registration order."""

    total: int
    offset: int
    tensors: list[TensorOut]


class SeriesOut(Model):
    """
    One statistic of one tensor (or one logged scalar) over steps that were looked at; steps are the attempt's own
    count. Older values rest in single precision. In a long series a point stands for several steps: it bears the last
    of them and the value there, and `low` and `high` are their extremes.
    """

    run: str
    attempt: str
    name: str
    stat: str
    step_offset: int | None = Field(
        description="add it to get the trainer's own step; null: not known"
    )
    every: int = Field(
        description="steps that a point stands for; of old steps no more than one in 16 or 256 may be kept"
    )
    steps: list[int]
    values: list[Number]
    low: list[Number] = Field(description="[] where every point is one step")
    high: list[Number]


class WorstOut(Model):
    """A tensor, its last value of a statistic, and the step of that look in the attempt's own count."""

    fqn: str
    value: Number
    step: int


class Worst(Model):
    """Tensors with the largest last value of a statistic, NaN first."""

    stat: str
    tensors: list[WorstOut]


class MuteOut(Model):
    """An acknowledged finding, or a muted pattern of findings."""

    id: str
    run: str
    detector: str
    tensor: str
    finding: str = Field(description="id of the acknowledged finding; '' for a pattern")
    reason: str
    since: float = Field(description="Unix seconds")
    until: float | None = Field(description="Unix seconds; null: until it is taken back")


class MutesOut(Model):
    """All that hold now, oldest first."""

    mutes: list[MuteOut]


class Health(Model):
    """Whether the monitor works."""

    status: Literal["ok"]
    version: str
