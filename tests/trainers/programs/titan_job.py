"""
A user's own jobs: `python -m torchtitan.train --module titan_job --config replaced_bias`.
"""

import torch
from torchtitan.models.deepseek_v3.config_registry import deepseek_v3_debugmodel


def balance(optimizers, model_parts, _parallel_dims):
    """torchtitan #1222: the bias that balances the experts is assigned anew instead of updated."""

    def update(*_, **__):
        for block in (block for part in model_parts for block in part.layers.values()):
            if block.moe_enabled:
                moe, load = block.moe, block.moe.tokens_per_expert_E.float()
                step = moe.load_balance_coeff * torch.sign(load.mean() - load)
                with torch.no_grad():
                    moe.expert_bias_E = moe.expert_bias_E + (step - step.mean())
                    moe.tokens_per_expert_E.zero_()

    optimizers.register_step_pre_hook(update)


def replaced_bias():
    """torchtitan's debug model, with that hook instead of its own."""
    config = deepseek_v3_debugmodel()
    config.model_spec.post_optimizer_build_fn = balance
    return config
