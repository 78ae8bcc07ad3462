"""
torchtitan #1222 on torchtitan's own Trainer, MoE and CheckpointManager: `stale`, `replaced` or `sound`.

`replaced`: the hook that balances the experts assigns a new bias instead of updating it. `stale`: so it does, and the
wrapper around the model hands its first state dict to every save, as torchtitan's did before 0.3.
"""

import sys

import titan_cpu
import torch
from titan_job import balance
from torchtitan.components.checkpointer import base

mode = sys.argv[1]
config = titan_cpu.tiny(steps=20, checkpoints=True, interval=10)

if mode != "sound":
    config.model_spec.post_optimizer_build_fn = balance
if mode == "stale":
    base.ModelWrapper.state_dict = lambda self: self.cached_state_dict

trainer = config.build()
trainer.train()
trainer.close()
torch.distributed.destroy_process_group()
