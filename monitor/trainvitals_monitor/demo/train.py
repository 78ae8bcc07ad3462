"""
Train the small mixture of experts; with `--fault`, as two real trainers did until it was noticed.

    python -m trainvitals_monitor.demo.train --folder /tmp/checkpoints --fault expert-bias

This is an ordinary trainer. What trainvitals needs of it are the three lines with `agent` in them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import trainvitals
from trainvitals_monitor.demo.model import LanguageModel, moe_layers, next_token_loss
from trainvitals_monitor.demo.text import Text

BALANCE_RATE = 1e-3


def balance_experts(model: nn.Module, fault: str) -> None:
    """Move each expert bias towards the experts that had too few tokens (torchtitan: before the optimizer's step)."""
    for moe in moe_layers(model):
        move_E = moe.balance(BALANCE_RATE)
        if fault == "expert-bias":
            # torchtitan #1222: puts a NEW tensor into the module. Whoever took the old one - a state dict that
            # was built once, for every checkpoint - keeps zeros for ever.
            moe.expert_bias = moe.expert_bias + move_E
        else:
            moe.expert_bias.add_(move_E)


def continue_from_grown_biases(model: nn.Module, fault: str) -> None:
    """Router biases as they are late in a long run; with the fault, as Float16Module then leaves them."""
    for moe in moe_layers(model):
        moe.expert_bias.copy_(torch.linspace(0.55, 0.8, len(moe.expert_bias)))
        if fault == "router-dtype":
            # Megatron-LM #1482: module.bfloat16() casts buffers too. Above 0.5 bfloat16's next number is 0.004
            # away, so that an update of 0.001 is rounded to nothing. (The parameters have fp32 masters there.)
            moe.expert_bias = moe.expert_bias.bfloat16()


def main() -> None:
    """Train for `--steps` steps and save now and then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--fault", choices=["none", "expert-bias", "router-dtype"], default="none")
    args = parser.parse_args()

    torch.manual_seed(0)
    text = Text()
    model = LanguageModel(vocabulary=len(text.alphabet))
    model.init_weights()
    if args.fault == "router-dtype":
        continue_from_grown_biases(model, args.fault)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    optimizer.register_step_pre_hook(lambda *_: balance_experts(model, args.fault))
    checkpoint = {"model": model.state_dict()}  # built once, as torchtitan's ModelWrapper did

    agent = trainvitals.attach(model, optimizer)
    for step in range(1, args.steps + 1):
        loss = next_token_loss(model, text.batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(step=step, loss=loss.item())
        print(f"step {step} loss {loss.item():.3f}", flush=True)
        if step % max(args.steps // 2, 1) == 0:
            torch.save(checkpoint, args.folder / f"step-{step}.pt")
    agent.close()


if __name__ == "__main__":
    main()
