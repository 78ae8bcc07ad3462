"""
What agents of a healthy training send, made up: frames of n tensors with 8 statistics each, every step.

Values wander slowly and every parameter moves, so that no detector has anything to say and each has to look. The bytes
are the agent's own (`encode`). Nothing here sends anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trainvitals.frame import Event, Frame, Header, OptimizersSeen, TensorInfo, encode

TENSORS = 2000
STATISTICS = 8
_STARTED = 1.7e9
_KINDS = (
    "attention.wq",
    "attention.wk",
    "attention.wv",
    "attention.wo",
    "ffn.w1",
    "ffn.w2",
    "norm",
)

Columns = dict[str, dict[str, npt.NDArray[Any]]]


@dataclass
class Training:
    """
    One run, from `first_step` on. `layout`: how ranks hold tensors; "box" gives each a row of its own, as FSDP2 does, "replica" all of it.

    A step's columns are made once, for all ranks: `columns(step)`, then `frame(rank, step, columns)`.
    """

    run: str
    tensors: int = TENSORS
    world_size: int = 1
    layout: Literal["full", "replica", "box"] = "full"
    first_step: int = 1
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        self._norm = np.exp(self._rng.normal(size=self.tensors))

    def frames(self, steps: int) -> list[bytes]:
        """Rank 0's frames of the first steps, one each."""
        return [self.frame(0, step, self.columns(step)) for step in range(1, steps + 1)]

    def columns(self, step: int) -> Columns:
        """The facts of a step."""
        index = np.arange(self.tensors)
        norm, noise = self._norm * (1 + 1e-4 * step), self._rng.random(self.tensors)
        key = {"tensor": index, "step": np.full(self.tensors, step)}
        tables: dict[str, dict[str, Any]] = {
            "values": {**key, "norm": norm, "nonfinite": 0 * index, "exact": 0 * index + 1},
            "updates": {
                **key,
                "update_norm": norm * 1e-3 * (0.5 + noise),
                "looked": 0 * index + 4096,
                "changed": (4096 * (1 - noise / 8)).astype(np.int64),
            },
            "gradients": {**key, "grad_norm": 0.1 + noise, "grad_missing": 0 * index},
            "groups": {"group": [0], "step": [step], "lr": [1e-4]},
            "scalars": {"scalar": [0], "step": [step], "value": [2.0 + self._rng.random() / 10]},
            "steps": {
                "step": [step],
                "time": [_STARTED + step],
                "seconds": [0.5],
                "agent_seconds": [0.002],
            },
        }
        return {
            table: {name: np.asarray(values) for name, values in columns.items()}
            for table, columns in tables.items()
        }

    def frame(self, rank: int, step: int, columns: Columns) -> bytes:
        """What a rank sends of a step; with the first one its tensor table."""
        first = step == self.first_step
        header = Header(
            agent_version=version("trainvitals"),
            run=self.run,
            attempt="0",
            process=f"p{rank}",
            rank=rank,
            world_size=self.world_size,
            seq=step - self.first_step + 1,
            started_at=_STARTED,
            sent_at=_STARTED + step,
            first_step=step,
            complete_through=step,
            tensors=self._infos(rank) if first else [],
            scalars=["loss"],
            events=self._optimizer() if first else [],
        )
        return encode(Frame(header=header, tables=columns))

    def fqn(self, tensor: int) -> str:
        """The name of a tensor."""
        layer, kind = divmod(tensor, len(_KINDS))
        return f"layers.{layer}.{_KINDS[kind]}.weight"

    def _infos(self, rank: int) -> list[TensorInfo]:
        box = self.layout == "box"
        return [
            TensorInfo(
                index=tensor,
                fqn=self.fqn(tensor),
                raw_fqn=self.fqn(tensor),
                kind="param",
                dtype="float32",
                shape=[self.world_size if box else 64, 64],
                trainable=True,
                layout=self.layout,
                offsets=[rank, 0] if box else [0, 0],
                sizes=[1, 64] if box else [64, 64],
                replica_group="all" if self.layout == "replica" else "",
            )
            for tensor in range(self.tensors)
        ]

    def _optimizer(self) -> list[Event]:
        return [
            OptimizersSeen(
                step=self.first_step,
                optimizers=["AdamW"],
                group_optimizer=[0],
                group_tensors=[list(range(self.tensors))],
            )
        ]
