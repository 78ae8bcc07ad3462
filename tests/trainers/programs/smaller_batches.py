"""transformers' `auto_find_batch_size`: the memory does not do for the third batch, and the training begins anew."""

from transformers_prelude import Trainer, arguments, dataset, model

from trainvitals.integrations.transformers import TrainvitalsCallback

batches = 0


def allocate(_model, _positional, given):
    """Memory for a batch; three of four rows it has for ever."""
    global batches
    batches += 1
    if batches > 4 and len(given["input_ids"]) == 4:
        raise RuntimeError("CUDA out of memory.")


model.register_forward_pre_hook(allocate, with_kwargs=True)
arguments.auto_find_batch_size = True
trainer = Trainer(
    model=model, args=arguments, train_dataset=dataset, callbacks=[TrainvitalsCallback()]
)
trainer.train()
print("batches of", trainer._train_batch_size)
