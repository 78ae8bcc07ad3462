"""
What the agent says in the trainer's log: one line at attach, one for each finding, a summary at the end.

Lines go to the logger "trainvitals": to the trainer's own handlers if it has set up logging, else to stderr; never to
stdout, which is the trainer's. `logging.getLogger("trainvitals").setLevel(...)` quietens them.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

LOGGER = logging.getLogger("trainvitals")


class _Stderr(logging.Handler):
    """Speaks only where nobody else would: as long as the root logger has no handler."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers:
            return
        line = f"trainvitals: {self.format(record)}"
        bars: Any = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
        # A stderr that is closed, a full disk behind it, a pipe that nobody reads: the guard itself speaks here.
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is None:  # of a daemon
                return
            if getattr(bars, "_instances", None):
                bars.write(line, file=sys.stderr)  # not at the end of somebody's progress bar
            else:
                sys.stderr.write(line + "\n")


if not LOGGER.handlers:
    LOGGER.addHandler(_Stderr())
if LOGGER.level == logging.NOTSET:
    LOGGER.setLevel(logging.INFO)


def say(text: str, *, level: int = logging.INFO) -> None:
    """One line for the person who reads the trainer's output."""
    LOGGER.log(level, text)


def attach_line(
    *,
    run: str,
    models: Sequence[str],
    num_tensors: int,
    num_watched: int,
    optimizers: Sequence[str],
    num_ranks: int,
    target: str,
    to_folder: bool,
    budget: float | None,
) -> str:
    """What was found, and where facts go."""
    names = _counted(models)
    steps = _counted(optimizers) if optimizers else "the optimizer that steps first"
    share = (
        "looking at everything at every step"
        if budget is None
        else f"taking up to {budget:.1%} of step time"
    )
    where = f"frames to the folder {target}" if to_folder else f"monitor {target}"
    ranks = f", {num_ranks} ranks" if num_ranks > 1 else ""
    return (
        f"run {run}: {names}, {num_tensors} tensors ({num_watched} watched), {steps}{ranks}; "
        f"{share}; {where}"
    )


def finding_line(finding: Mapping[str, Any], page: str) -> str:
    """A finding as the trainer's log shows it."""
    where = f" ({page})" if page else ""
    return f"{finding['severity']}: {finding['detector']}: {finding['message']} {finding['advice']}{where}"


def summary_line(run: str, coverage: Mapping[str, Any], folder: str = "") -> str:
    """At the end: what was covered, what was never exercised, and how frames in a folder are judged."""
    never = coverage["never_seen"]
    rest = f"; never seen: {', '.join(never)}" if never else ""
    judge = f"; to see what was found: trainvitals replay {shlex.quote(folder)}" if folder else ""
    return (
        f"run {run}: {coverage['steps']} steps, {coverage['tensors_seen']} of {coverage['tensors']} tensors looked at"
        f" ({coverage['tensors_exact']} read whole), {coverage['saves']} saves and {coverage['loads']} loads seen"
        f"{rest}{judge}"
    )


def _counted(names: Sequence[str]) -> str:
    """`Actor and 2 Critic`: each once, in order."""
    counts = Counter(names)
    return " and ".join(name if n == 1 else f"{n} {name}" for name, n in counts.items())
