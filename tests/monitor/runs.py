"""
Whole runs in frames, for tests of the monitor.
"""

from __future__ import annotations

from tests.monitor.stream import Stream, tensor


def faulty(run: str = "run", steps: int = 6) -> Stream:
    """A run in which a buffer is replaced at step 3, with a loss and a norm that count the steps."""
    stream = Stream(["layers.0.w", "layers.1.w", tensor("moe.expert_bias", kind="buffer")], run=run)
    stream.optimizers([["layers.0.w", "layers.1.w"]])
    for step in range(1, steps + 1):
        if step == 3:
            stream.slot("moe.expert_bias", "object", "storage", outlived=3)
        stream.step(
            values={"*": float(step)},
            updates={"layers.0.w": 0.1, "layers.1.w": 0.1},
            gradients={"layers.0.w": 1.0, "layers.1.w": 1.0},
            loss=1.0 / step,
            lr=1e-3,
        )
    stream.flush()
    return stream


def healthy(steps: int, run: str = "run", *, flush: bool = True) -> Stream:
    """A run with one tensor whose norm wanders."""
    stream = Stream(["w"], run=run)
    for step in range(1, steps + 1):
        stream.step(values={"w": 1 + step % 7 / 100}, loss=2.0)
    if flush:
        stream.flush()
    return stream
