"""
Megatron-LM #1482 on megatron-core's own router and Float16Module: `bf16` or `sound`.

`bf16`: what was before the fix: nothing casts the router's bias back to fp32 at the first forward pass.
"""

import sys

from megatron.core.transformer.moe.router import TopKRouter

if sys.argv[1] == "bf16":
    TopKRouter._maintain_float32_expert_bias = lambda self: None

import megatron_prelude as trainer

for _ in range(16):
    trainer.train_step(trainer.model, trainer.optimizer)
