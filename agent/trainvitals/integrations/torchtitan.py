"""
torchtitan: its Trainer, after it was built and before it trains.

    trainer = config.build()
    attach(trainer)
    trainer.train()
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchtitan.components.metrics import BaseLogger, LoggerContainer
from torchtitan.distributed import ParallelDims
from torchtitan.trainer import Trainer

import trainvitals
from trainvitals.integrations.naming import with_run

_LOSS = "loss_metrics/global_avg_loss"


class TrainvitalsLogger(BaseLogger):
    """A logger among torchtitan's others: its metrics reach the agent with torchtitan's step number."""

    def __init__(self, agent: trainvitals.Agent) -> None:
        self._agent = agent

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """The loss, averaged over all ranks; other metrics have other keepers."""
        self._agent.log(step=step, loss=metrics.get(_LOSS))

    def close(self) -> None:
        """The end of the training."""
        self._agent.close()


def _mesh(dims: ParallelDims) -> dict[str, tuple[int, int]]:
    """This rank's place on each axis that has several ranks; which names there are depends on the SPMD backend."""
    meshes = dims.get_all_one_dimensional_meshes() if dims.world_size > 1 else {}
    axes = ("pp", "dp_replicate", "fsdp", "dp_shard", "cp", "tp", "ep")
    return {
        axis: (meshes[axis].get_local_rank(), meshes[axis].size())
        for axis in axes
        if axis in meshes
    }


def attach(trainer: Trainer, **settings: Any) -> trainvitals.Agent:
    """
    Watch this Trainer: its model parts, its optimizers, step number and loss.

    `settings` are those of `trainvitals.attach`. The run is called as the dump folder is. Its metrics
    go to the logger that it had, and to the agent; `close()` gives the Trainer that one back.
    """
    folder = Path(trainer.config.dump_folder).resolve().name
    agent = trainvitals.attach(
        trainer.model_parts,
        trainer.optimizers,
        step=trainer.step,
        **{"mesh": _mesh(trainer.parallel_dims), **with_run(settings, folder)},
    )
    processor, theirs = trainer.metrics_processor, trainer.metrics_processor.logger
    both = LoggerContainer()
    both.add_logger(theirs)
    both.add_logger(TrainvitalsLogger(agent))
    processor.logger = both
    agent.at_close(
        "torchtitan.Trainer: metrics_processor.logger",
        lambda: setattr(processor, "logger", theirs),
    )
    return agent
