"""
What being watched costs a trainer: CPU time, wall time and memory, against the same trainer unattached.

A GPT of 25 million parameters (trainings.py) is trained by several processes in lock-step (lockstep.py): unattached, a second
time unattached (what the machine's noise alone makes of equal arms), with the default budget, and with `budget=None`,
which looks at everything at every step. Attached arms send to a monitor each, a process of its own. CPU time is that of
the trainer's process with all its threads and children; the monitor's stands apart. Figures are ratios of turns, taken
side by side; medians, with quartiles in brackets. The first 50 steps, which are looked at in full, are trained but not
counted.

A turn is some five seconds of steps. An agent can't know that its trainer waits for the others: after turns of one step it
would take the waiting for step time, and spend its share of that as well.

Then the same for what is hard on a budget (short steps, thousands of tensors), with what the agent says that it took. The
memory that a tensor takes is measured by benchmarks.memory.

    python -m benchmarks.overhead                      # all of it: fifteen minutes
    python -m benchmarks.overhead --part gpt --turns 20
    python -m benchmarks.overhead --write-docs         # also puts the tables into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trainvitals
from benchmarks.lockstep import Arm, Lockstep, Measured, Memory, cpu_seconds_of
from benchmarks.report import machine, progress, spread, table, write_part
from benchmarks.trainings import Layers, Perceptron, SmallGPT, Training
from trainvitals_monitor.child import ChildMonitor

INTRODUCTION = """\
By `python -m benchmarks.overhead`: trainers in lock-step, unattached and attached to a monitor of their own. CPU time is
that of the trainer's process, all threads and children. Medians of turns, of some five seconds each, against the unattached
trainer's, with quartiles; "unattached again" is what noise alone makes of equal arms. The first 50 steps are not counted.

All arms keep the memory that they have freed (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`). With glibc's malloc as it
comes, large blocks go back to the system at each step or do not, by where small objects happen to lie: processes that
train the same differ by thousands of page faults a step, and by several percent, for as long as they run. `--malloc
plain` measures that, and the column of page faults shows it: two runs of it gave +2.9% and -0.2% for the default,
+5.8% and -0.7% for everything, -0.7% and -3.1% for a second unattached trainer.

Where tensors are tiny it matters for good how they come to lie in the heap. Of "20,000 tensors of 64", which does next to
nothing but make and free them, an agent that was closed after one step leaves +4.4%; so does whoever makes 20,000 small
tensors once and frees them in another order, with no agent at all: +4.1% (in their own order +2.3%; two unattached trainers
in the same run were 2.3% apart)."""
TURNS = 10
WARM_UP = 50
"""The steps that the agent may look at in full."""
BUDGETS: dict[str, float | None] = {"default": 0.005, "everything": None}
BASE, CONTROL = "unattached", "unattached again"


# -- the arms -----------------------------------------------------------------------------------------------------------


class Unattached:
    """Trains, `steps` optimizer steps a turn."""

    def __init__(self, make: Callable[[], Training], steps: int) -> None:
        self._training, self._steps = make(), steps

    def step(self) -> None:
        """A turn."""
        for _ in range(self._steps):
            self._training.step()

    def told(self) -> str:
        """Nobody looks."""
        return ""

    def close(self) -> None:
        """Nothing was attached."""


class Attached:
    """The same under an agent, which is told the loss as well."""

    def __init__(
        self, make: Callable[[], Training], steps: int, monitor: str, budget: float | None
    ) -> None:
        self._training, self._steps = make(), steps
        self._agent = trainvitals.attach(
            self._training.model,
            self._training.optimizer,
            run="overhead",
            monitor=monitor,
            budget=budget,
            quiet=True,
        )

    def step(self) -> None:
        """A turn."""
        for _ in range(self._steps):
            self._agent.log(loss=self._training.step())

    def told(self) -> str:
        """What the agent says of its looks."""
        return str(self._agent.plan())

    def close(self) -> None:
        """As a trainer's end does."""
        self._agent.close()


# -- measuring ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Of each arm what was measured, and of each monitor its CPU seconds a step."""

    arms: Mapping[str, Measured]
    monitor_s: Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """A training, and how it is measured: `steps` optimizer steps a turn, and which arms beside the unattached one."""

    name: str
    make: Callable[[], Training]
    arms: Sequence[str]
    steps: int


GPT = Case("GPT of 25M parameters", SmallGPT, (CONTROL, *BUDGETS), 10)
HARD = (
    Case("40 tensors, short steps", partial(Perceptron, 20, 256, 96), (CONTROL, "default"), 300),
    Case("150 tensors", partial(Perceptron, 75, 512, 32), (CONTROL, "default"), 40),
    Case("20,000 tensors of 64", partial(Layers, 20_000, (8, 8)), (CONTROL, "default"), 60),
)


def measure(
    case: Case, turns: int, say: Callable[[str], None], *, keeps_freed: bool = True
) -> Figures:
    """So many counted turns of every arm."""
    warm_up = -(-WARM_UP // case.steps)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overhead-")))
        arms = [Arm(BASE, partial(Unattached, case.make, case.steps))]
        monitors = {}
        for name in case.arms:
            if name == CONTROL:
                arms.append(Arm(name, partial(Unattached, case.make, case.steps)))
                continue
            monitors[name] = ChildMonitor(folder / name)
            stack.callback(monitors[name].stop)
            url, budget = monitors[name].start().client.url, BUDGETS[name]
            arms.append(Arm(name, partial(Attached, case.make, case.steps, url, budget)))
        lockstep = stack.enter_context(Lockstep(arms, keeps_freed=keeps_freed))
        began: dict[str, float] = {}

        def told(turn: int) -> None:
            if turn == warm_up - 1:
                began.update({name: cpu_seconds_of(each.pid) for name, each in monitors.items()})
            say(f"{case.name}: turn {turn + 1} of {warm_up + turns}")

        found = lockstep.run(warm_up, turns, told)
        used = {name: cpu_seconds_of(each.pid) - began[name] for name, each in monitors.items()}
    steps = turns * case.steps
    return Figures(found, {name: seconds / steps for name, seconds in used.items()})


# -- what is shown -----------------------------------------------------------------------------------------------------


def cost_rows(case: Case, figures: Figures) -> list[list[str]]:
    """A row for each arm: what a step of the base takes, and how much more the others."""
    base = figures.arms[BASE]
    own = [_a_step(each, case) for each in (base.cpu_s, base.wall_s)]
    rows = [[f"{BASE}, ms", *own, _faults(base, case), ""]]
    for name in case.arms:
        one = figures.arms[name]
        more = [_more(one.cpu_s, base.cpu_s), _more(one.wall_s, base.wall_s)]
        monitor = figures.monitor_s.get(name)
        served = "" if monitor is None else f"{1e3 * monitor:.1f}"
        rows.append([name, *more, _faults(one, case), served])
    return rows


def _faults(arm: Measured, case: Case) -> str:
    return f"{statistics.mean(arm.faults) / case.steps:.0f}"


def _a_step(turns_s: Sequence[float], case: Case) -> str:
    return spread([1e3 * each / case.steps for each in turns_s], ".1f")


def _more(one: Sequence[float], base: Sequence[float]) -> str:
    """How much more one took than the base, turn by turn."""
    return spread([mine / other - 1 for mine, other in zip(one, base, strict=True)], "+.2%")


def memory_rows(case: Case, figures: Figures) -> list[list[str]]:
    """Megabytes: of the base, and how much more the others take."""
    base = figures.arms[BASE].memory
    rows = [[BASE, *(f"{each / 1e6:.0f}" for each in _kinds(base))]]
    for name in case.arms:
        more = [
            mine - other
            for mine, other in zip(_kinds(figures.arms[name].memory), _kinds(base), strict=True)
        ]
        rows.append([name, *(f"{each / 1e6:+.0f}" for each in more)])
    return rows


def _kinds(memory: Memory) -> tuple[int, int]:
    return memory.proportional, memory.peak


def looks(figures: Figures) -> list[str]:
    """What the agents say of themselves."""
    return [f"{name}: {one.told}" for name, one in figures.arms.items() if one.told]


COST = ("arm", "CPU a step", "wall a step", "page faults a step", "monitor's CPU, ms a step")
MEMORY = ("arm", "memory, MB", "at its highest, MB")


def report(case: Case, turns: int, say: Callable[[str], None], *, keeps_freed: bool = True) -> str:
    """The tables of one case."""
    figures = measure(case, turns, say, keeps_freed=keeps_freed)
    costs = table(COST, cost_rows(case, figures))
    memory = table(MEMORY, memory_rows(case, figures)) if case is GPT else ""
    parts = [f"### {case.name[0].upper()}{case.name[1:]}", costs, memory, *looks(figures)]
    return "\n\n".join(part for part in parts if part)


def main() -> int:
    """Measure, print, and write it down where asked to."""
    given = _arguments()
    # Whatever ends us, monitors and trainers end with us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if given.turns < 1:
        print(f"--turns {given.turns}: at least one is needed", file=sys.stderr)
        return 2
    wanted = {"gpt": [GPT], "hard": HARD}
    parts = []
    try:
        for part in given.part or wanted:
            for case in wanted[part]:
                keeps = given.malloc == "keeping"
                parts.append(report(case, given.turns, progress, keeps_freed=keeps))
                print(f"\n{parts[-1]}\n", flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is written", file=sys.stderr)
        return 130
    where = machine("torch", "numpy")
    print(where)
    if given.write_docs and (given.part or given.malloc != "keeping"):
        print("nothing is written: that takes all parts, with memory kept", file=sys.stderr)
    elif given.write_docs:
        body = [f"## Overhead\n\n{INTRODUCTION}", where, *parts]
        write_part("overhead", "\n\n".join(body))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--part",
        choices=["gpt", "hard"],
        action="append",
        help="only this one; may be given several times",
    )
    parser.add_argument(
        "--turns", type=int, default=TURNS, help=f"counted turns of each arm (default: {TURNS})"
    )
    parser.add_argument(
        "--malloc",
        choices=["keeping", "plain"],
        default="keeping",
        help="what happens to freed memory: it is kept, or goes as glibc has it (default: keeping)",
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
