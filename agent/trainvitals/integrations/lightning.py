"""
Lightning: a callback for its Trainer.

    trainer = Trainer(max_steps=1000, callbacks=[TrainvitalsCallback()])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

import trainvitals
from trainvitals.integrations.naming import with_run


class TrainvitalsCallback(Callback):
    """
    Attaches when the training begins (model wrapped, optimizers made, checkpoint restored), closes when it ends.

    `settings` are those of `trainvitals.attach`. Takes the wrapped model, all optimizers, the step number and, with
    automatic optimization, the loss from the Trainer. The run is called as the Trainer's logger calls it.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._logged = -1
        self.agent: trainvitals.Agent | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the sanity check, before the first batch."""
        settings = with_run(self._settings, _run_name(trainer))
        self._logged = trainer.global_step
        self.agent = trainvitals.attach(
            trainer.strategy.model or pl_module,
            trainer.optimizers,
            step=trainer.global_step,
            **{"mesh": _mesh(trainer), **settings},
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Only where an optimizer has stepped: with accumulation most batches make no step."""
        if self.agent is None or trainer.global_step == self._logged:
            return
        self._logged = trainer.global_step
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor):
            # What Lightning hands over is a microbatch's share of the step's loss.
            loss = loss.detach() * trainer.accumulate_grad_batches
        self.agent.log(step=trainer.global_step, loss=loss)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """At the end."""
        if self.agent is not None:
            self.agent.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Or at an exception; Lightning then calls no teardown, and may fit the same module again."""
        if self.agent is not None:
            self.agent.close()


def _mesh(trainer: Trainer) -> Any:
    """The strategy's own (ModelParallelStrategy), else one axis: every process has data of its own."""
    mesh = getattr(trainer.strategy, "_device_mesh", None)
    return {"dp": (trainer.global_rank, trainer.world_size)} if mesh is None else mesh


def _run_name(trainer: Trainer) -> str | None:
    """`lightning_logs/version_3`: what the logger writes to."""
    logger = trainer.logger
    if logger is None or logger.name is None:
        return None
    version = logger.version
    version = f"version_{version}" if isinstance(version, int) else version
    return "-".join(str(part) for part in (logger.name, version) if part not in (None, ""))
