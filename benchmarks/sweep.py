"""
What each look at a model costs, in memory passes: the time to read the same bytes once.

The probes are called as the agent calls them, on models of few large and of many small tensors. All tensors of a model
are views of one buffer, and a pass is the sum of that buffer as 64-bit integers. Each look is taken right after a pass,
and its CPU time divided by that pass's; medians over the rounds, with quartiles in brackets. Between rounds everything
is multiplied by a number, as a step would change it, so that nothing is found in a cache. One thread.

    python -m benchmarks.sweep                         # all models: three minutes
    python -m benchmarks.sweep --model gpt2 --rounds 5
    python -m benchmarks.sweep --write-docs            # also puts the tables into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from benchmarks.bare import bare
from benchmarks.report import machine, progress, spread, table, write_part
from trainvitals.probes.gradients import Gradients
from trainvitals.probes.identity import Identity
from trainvitals.probes.probe import Choice, Look, Probe
from trainvitals.probes.updates import Updates
from trainvitals.probes.values import Sweeps, Values
from trainvitals.record import Record
from trainvitals.slots import SlotTable

INTRODUCTION = """\
By `python -m benchmarks.sweep`: what each look at all tensors costs, as a multiple of one memory pass (the sum of the same
memory as 64-bit integers, one thread), each measured right after such a pass. CPU time; medians over rounds, with quartiles.
A pass and the work on it are both limited by the memory, dispatch and arithmetic are not: the faster a machine's memory,
the higher these ratios."""
LIMITS = """\
What the rows "bare" are: the calls of torch and numpy without which a look can't be had in plain Python, and nothing around
them. They say how much of a ratio is the agent's, and how much no agent without compiled code gets rid of.

* Sweeps of many tensors. A pass over 10,000 float32 is 2 to 3 us; one call for each of them, be it `torch._foreach_norm`
  (whose sums are float32's) or a dot product, is as much again. The agent copies them together, which costs about half a
  pass, and calls per batch instead of per tensor; what its ratio is above the bare rows' goes into finding each tensor in
  its module (a dozen places in memory) and seeing that it can be read. 1.3 passes would take one call over all pointers,
  in float64: no torch operator is one.
* bfloat16. A float32 sum needs float32s: made in 4 MB pieces ("made float32") and multiplied there (half as much again).
  torch's own norm of bfloat16 tensors is rounded to 8 bits, its dot products are slower than this by far, and products
  with a float32 result are not there on CPUs. A kernel that widens in registers would take one pass.
* Cores. 64 places of a tensor lie in as many pages, and each waits for the memory: "cores copied" alone is most of what is
  asked. Then the norms, and the comparison with the cores of the last look, which have to come from memory too: three
  dozen calls a batch of 64k elements, and half a dozen Python objects a tensor. A fused kernel would leave the waiting.
* Identity. "Again at once" is its cost with everything in the cache; what "identity" takes more is waiting for the memory,
  for objects and code that the pass has thrown out: most of it on GPT-2, whose few slots share the code."""
COMPARED = 6
"""What identity compares of a slot: object, pointer, dtype, device, shape, requires_grad."""
AGAIN = "identity, again at once"
"""The look that is taken twice, and timed the second time."""
FLOORS = (
    ("cores: norms, updates", "bare: cores copied"),
    ("sweep", "bare: a dot product each"),
    ("sweep", "bare: made float32"),
)
"""Looks, and the bare calls that are a part of them, or do the same."""


@dataclass(frozen=True)
class Model:
    """What is built, and the ratios that are asked of it (None: none is). `check_ns`: of one comparison of one slot."""

    name: str
    title: str
    shapes: Sequence[tuple[int, ...]]
    dtype: torch.dtype
    cores: float | None = None
    sweep: float | None = None
    check_ns: float = 60.0


def _gpt2() -> list[tuple[int, ...]]:
    width = 768
    block: list[tuple[int, ...]] = [
        (width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,),
        (width,), (width,), (width, 4 * width), (4 * width,), (4 * width, width), (width,),
    ]  # fmt: skip
    return [(50257, width), (1024, width), *block * 12, (width,), (width,)]


MODELS = (
    Model("gpt2", "GPT-2, 124M, float32", _gpt2(), torch.float32, cores=0.08, sweep=1.3),
    Model("gpt2-bf16", "GPT-2, 124M, bfloat16", _gpt2(), torch.bfloat16, sweep=1.6),
    Model(
        "many", "3,000 tensors of 10,000, float32", [(100, 100)] * 3000, torch.float32, sweep=1.3
    ),
    Model("small", "20,000 tensors of 1,000, float32", [(1000,)] * 20_000, torch.float32),
)


class Subject:
    """A model with gradients, and what the agent needs to look at it."""

    def __init__(self, model: Model) -> None:
        sizes = [int(np.prod(shape)) for shape in model.shapes]
        edges = np.cumsum([0, *sizes]).tolist()
        # Whole 64-bit words, so that the pass reads all of it.
        self.memory = torch.randn(-(-edges[-1] // 8) * 8).mul_(0.02).to(model.dtype)
        gradients = self.memory.clone()
        self.model = nn.Module()
        for number, (shape, (begin, end)) in enumerate(
            zip(model.shapes, pairwise(edges), strict=True)
        ):
            if number % 2 == 0:
                layer = nn.Module()
                self.model.add_module(f"layer{number // 2}", layer)
            parameter = nn.Parameter(self.memory[begin:end].view(shape))
            parameter.grad = gradients[begin:end].view(shape)
            layer.register_parameter("weight" if number % 2 == 0 else "bias", parameter)
        self.slots = SlotTable([self.model])
        self.record = Record(limit_bytes=1 << 30)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.slots.holding(self.optimizer)
        self._step = 0

    def read(self) -> None:
        """One memory pass."""
        self.memory.view(torch.int64).sum()

    def move(self) -> None:
        """Change every element, to and fro; what was recorded is let go."""
        self._step += 1
        self.memory.mul_(1.25 if self._step % 2 else 0.8)
        self.record.take()

    def look(self, choice: Choice) -> Look:
        """As the agent makes it for each step."""
        return Look(self._step, self.slots, self.record, choice, [self.optimizer], first=False)


def looks(subject: Subject) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each look by name, as it is taken of all tensors."""
    everyone = range(len(subject.slots))
    # The agent has one of each, too: what they know of the tensors is found at the first round.
    identity, values, updates = Identity(), Values(), Updates()
    sweeps, gradients = Sweeps(), Gradients()

    def after(choice: Choice, *probes: Probe) -> None:
        look = subject.look(choice)
        for probe in probes:
            probe.after_step(look)
        for part in map(look.at, look.in_parts()):
            for probe in probes:
                probe.after_cut(part)

    def before(choice: Choice, probe: Probe) -> None:
        probe.before_step(subject.look(choice))

    yield "identity", lambda: after(Choice(identity=everyone), identity)
    yield AGAIN, lambda: after(Choice(identity=everyone), identity)
    yield "identity, with a walk", lambda: after(Choice(identity=everyone, walk=True), identity)
    yield "cores: norms", lambda: after(Choice(cores=everyone), values)
    yield "cores: norms, updates", lambda: after(Choice(cores=everyone), values, updates)
    yield (
        "cores: norms, updates, digests",
        lambda: after(Choice(cores=everyone, digests=everyone), values, updates),
    )
    yield "cores of gradients", lambda: before(Choice(cores=everyone), updates)
    yield "sweep", lambda: after(Choice(sweep=everyone), sweeps)
    yield "norms of gradients", lambda: before(Choice(gradients=everyone), gradients)


@torch.no_grad()
def measure(model: Model, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """By look: ratios to a pass, and seconds a tensor; one of each a round. The first round is not counted."""
    subject = Subject(model)
    found: dict[str, tuple[list[float], list[float]]] = {}
    taken = {**dict(looks(subject)), **dict(bare(subject.model, subject.slots))}
    for number in range(rounds + 1):
        progress(f"{model.title}: round {number} of {rounds}")
        for name, look in taken.items():
            subject.move()
            one_pass = _cpu_seconds(subject.read)
            if name == AGAIN:
                look()
            seconds = _cpu_seconds(look)
            if number:
                ratios, each = found.setdefault(name, ([], []))
                ratios.append(seconds / one_pass)
                each.append(seconds / len(model.shapes))
    return found


def _cpu_seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def report(model: Model, found: dict[str, tuple[list[float], list[float]]]) -> str:
    """The model's table, and a line on identity."""
    asked = {"cores: norms, updates": model.cores, "sweep": model.sweep}
    rows = [
        [
            name,
            spread(ratios),
            spread([seconds * 1e6 for seconds in each]),
            "" if asked.get(name) is None else f"{asked[name]:g}",
        ]
        for name, (ratios, each) in found.items()
    ]
    cold, cached = (
        spread([seconds * 1e9 / COMPARED for seconds in found[name][1]], ".0f")
        for name in ("identity", AGAIN)
    )
    return (
        f"### {model.title}\n\n"
        f"{table(['look at all tensors', 'memory passes', 'us a tensor', 'asked: passes'], rows)}\n\n"
        f"Identity: {cached} ns for each of the {COMPARED} things compared of a slot that is in the cache, {cold} right "
        f"after a pass; asked: {model.check_ns:g} in the cache.\n\n{profile(found)}"
    )


def profile(found: dict[str, tuple[list[float], list[float]]]) -> str:
    """Where the time of the dearest looks goes."""
    each = {name: float(np.median(seconds)) for name, (_, seconds) in found.items()}
    waiting = 1 - each[AGAIN] / each["identity"]
    shares = [f"{waiting:.0%} of identity waits for the memory"]
    for name, floor in FLOORS:
        if floor in each:
            shares.append(f'{each[floor] / each[name]:.0%} of "{name}" is "{floor}"')
    return f"Of this time {', '.join(shares)}."


def main() -> int:
    """All models, or those that were asked for."""
    given = _arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen = [model for model in MODELS if not given.model or model.name in given.model]
    parts = []
    try:
        for model in chosen:
            parts.append(report(model, measure(model, given.rounds)))
            print(f"\n{parts[-1]}\n", flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is written", file=sys.stderr)
        return 130
    where = machine("torch", "numpy")
    print(where)
    if given.write_docs and not given.model:
        write_part("sweep", "\n\n".join([f"## Looks\n\n{INTRODUCTION}", where, *parts, LIMITS]))
    elif given.write_docs:
        print("nothing is written: that takes all models", file=sys.stderr)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        choices=[model.name for model in MODELS],
        action="append",
        help="only this one; may be given several times",
    )
    parser.add_argument("--rounds", type=int, default=15, help="counted rounds (default: 15)")
    parser.add_argument(
        "--write-docs", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
