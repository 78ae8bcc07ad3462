"""
transformers' Trainer (and TRL's, which are made of it): a callback.

    trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[TrainvitalsCallback()])
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import trainvitals
from trainvitals.attached import ATTACHED
from trainvitals.integrations.naming import with_run


class TrainvitalsCallback(TrainerCallback):
    """
    Attaches when the training begins (weights loaded, optimizer made, checkpoint resumed), and closes at its end.

    The Trainer doesn't say that a training has failed: its agent stays open, and gives way to the next one on the model.
    `settings` are those of `trainvitals.attach`. Takes the model, the optimizer, the step number and the logged loss
    from the Trainer; the run is called as `TrainingArguments.run_name` says, else as the last part of `output_dir`.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self.agent: trainvitals.Agent | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **given: Any,
    ) -> None:
        """The Trainer is ready for its first step, be it anew after an error (`auto_find_batch_size`)."""
        settings = with_run(self._settings, _run_name(args))
        mesh = getattr(given["model"], "_device_mesh", None)
        if mesh is None:  # every process has data of its own
            mesh = {"dp": (args.process_index, args.world_size)}
        with ATTACHED.giving_way():
            self.agent = trainvitals.attach(
                given["model"],
                given.get("optimizer"),
                step=state.global_step,
                **{"mesh": mesh, **settings},
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """An optimizer step is done; microbatches come by `on_substep_end`."""
        if self.agent is not None:
            self.agent.log(step=state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """The Trainer's own loss: the mean since it logged last."""
        loss = (given.get("logs") or {}).get("loss")
        if self.agent is not None and loss is not None:
            self.agent.log(step=state.global_step, loss=loss)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """After the last step and the last save."""
        if self.agent is not None:
            self.agent.close()


def _run_name(args: TrainingArguments) -> str | None:
    name: str | None = args.run_name
    folder: str | None = args.output_dir
    if name and name != folder:
        return name
    return Path(folder).resolve().name if folder else None
