"""Lightning: a training that ends by an exception, and is begun again on the same module."""

from lightning.pytorch import Callback, Trainer
from lightning_prelude import loader, module

from trainvitals.integrations.lightning import TrainvitalsCallback


class Fault(Callback):
    """A bug of the program's own."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            raise ValueError("its own")


def fit(callbacks):
    Trainer(
        max_steps=8,
        accelerator="cpu",
        enable_progress_bar=False,
        logger=False,
        enable_checkpointing=False,
        callbacks=callbacks,
    ).fit(module, loader)


try:
    fit([TrainvitalsCallback(run="again"), Fault()])
except ValueError as error:
    print("failed by", error)
fit([TrainvitalsCallback(run="again")])
