"""
A run in few words: how far it is, what was looked at, and what never happened so that it could not be judged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trainvitals_monitor.history import RunHistory
from trainvitals_monitor.history.attempt import AttemptHistory
from trainvitals_monitor.mesh import mesh_of


def summary(history: RunHistory) -> dict[str, Any]:
    """
    The latest attempt in short; {} before the first frame.

    `step` is the trainer's number of the last judged step, `our_step` ours; `last_seen` and `started_at` are Unix
    seconds by the agents' clocks; numbers may be None (not known) or not finite.
    """
    attempt = history.current
    if attempt is None:
        return {}
    return {
        "run": history.run,
        "attempt": attempt.key,
        "attempts": history.attempts_seen,
        "phase": phase_of(attempt),
        "step": attempt.step + (attempt.step_offset or 0),
        "our_step": attempt.step,
        "base_step": attempt.base_step,
        "step_offset": attempt.step_offset,
        "judged_steps": attempt.judged_steps,
        "world_size": attempt.world_size,
        "ranks": sorted(attempt.ranks),
        "tensors": len(attempt.tensors),
        "loss": _last_scalar(attempt, "loss"),
        "lr": _largest(attempt.held.lr(len(attempt.tensors))),
        "step_seconds": _median(attempt.pace.seconds),
        "agent_share": _share(attempt),
        "started_at": attempt.started_at,
        "last_seen": max((rank.sent_at for rank in attempt.ranks.values()), default=0.0),
        "dropped": dict(attempt.dropped),
        "total_steps": attempt.contract.total_steps,
    }


def phase_of(attempt: AttemptHistory) -> str:
    """The phase of the attempt: closed when every rank is, else what the lowest rank that is not says."""
    if attempt.closed:
        return "closed"
    ranks = [rank for _, rank in sorted(attempt.ranks.items()) if rank.phase != "closed"]
    return ranks[0].phase if ranks else "starting"


def coverage(history: RunHistory) -> dict[str, Any]:
    """
    What was looked at in the latest attempt, and what the run never did.

    `seen`: kind of look -> share of tensors, 0 to 1 (of parameters, for gradients, updates and counters); `oldest_look`:
    kind of look -> steps since the longest past last look; `exercised`: how often something happened, in all attempts
    that are kept; `never`: sentences for people; `compared`: one about the reference, if the run has or wants one;
    `plan`: the first rank's, how often it looks at what; `mesh`: where the ranks are (see mesh.py).
    """
    attempt = history.current
    if attempt is None:
        return {
            "steps": 0,
            "tensors": 0,
            "seen": {},
            "oldest_look": {},
            "exercised": {},
            "never": [],
            "compared": "",
            "plan": "",
            "mesh": {},
        }
    looks = {kind: look for kind in _KINDS if (look := looked(attempt, kind)) is not None}
    exercised = {
        "steps": sum(_steps(one) for one in history.attempts),
        "saves": sum(one.checkpoints.counts["save"] for one in history.attempts),
        "loads": sum(one.checkpoints.counts["load"] for one in history.attempts),
        "resumes": history.attempts_seen - 1,
        "losses": len(attempt.scalars.last("loss", 1 << 12, attempt.step)[0]),
        "probes switched off": attempt.event_counts["probe-failed"],
    }
    return {
        "steps": _steps(attempt),
        "tensors": len(attempt.tensors),
        "seen": {name: share for name, (share, _) in looks.items()},
        "oldest_look": {name: age for name, (_, age) in looks.items()},
        "exercised": exercised,
        "never": list(_never(exercised)),
        "compared": _compared(history),
        "plan": next((rank.plan for _, rank in sorted(attempt.ranks.items())), ""),
        "mesh": mesh_of(attempt),
    }


_KINDS = {
    "values": "norm",
    "updates": "looked",
    "gradients": "grad_norm",
    "counters": "optimizer_step",
}
_NEVER = {
    "steps": "no optimizer step was seen",
    "saves": "no checkpoint was saved",
    "loads": "no checkpoint was loaded",
    "resumes": "the run was not resumed",
    "losses": "no loss was logged",
}


def _steps(attempt: AttemptHistory) -> int:
    """Optimizer steps that were judged; the look at the state before the first is none."""
    return max(attempt.step - attempt.base_step, 0) if attempt.judged_steps else 0


def _never(exercised: dict[str, int]) -> list[str]:
    return [sentence for what, sentence in _NEVER.items() if not exercised[what]]


def _compared(history: RunHistory) -> str:
    if history.unknown_reference:
        return (
            f"no run {history.unknown_reference!r} was known when this one began: nothing was compared with it, "
            "and nothing will be in this attempt"
        )
    comparison = history.comparison
    if comparison is None:
        return ""
    return (
        f"{max(comparison.num_steps - 1, 0)} steps with those of run {comparison.reference.run!r}"
    )


def looked(attempt: AttemptHistory, kind: str) -> tuple[float, int] | None:
    """
    The share of tensors that a kind of look reached, and the age in steps of the oldest last look; None where there is no
    tensor to look at.
    """
    last = attempt.window.last_seen(_KINDS[kind])
    of = attempt.tensors.trainable if kind in ("gradients", "counters") else None
    last = last if of is None or len(of) != len(last) else last[of]
    if not len(last):
        return None
    seen = last[last >= 0]
    age = int(attempt.step - seen.min()) if len(seen) else 0
    return round(float((last >= 0).mean()), 4), age


def _last_scalar(attempt: AttemptHistory, name: str) -> float | None:
    _, values = attempt.scalars.last(name, 1, attempt.step)
    return float(values[-1]) if len(values) else None


def _largest(values: Any) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else None


def _median(values: Any) -> float | None:
    return float(np.median(values)) if len(values) else None


def _share(attempt: AttemptHistory) -> float | None:
    seconds, own = sum(attempt.pace.seconds), sum(attempt.pace.agent_seconds)
    return own / seconds if seconds > 0 else None
