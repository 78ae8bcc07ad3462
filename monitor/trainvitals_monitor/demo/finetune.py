"""
Fine-tune a briefly trained model with LoRA; with `--fault`, on weights that were wiped after they had been loaded.

    python -m trainvitals_monitor.demo.finetune --folder /tmp/checkpoints --fault lora-explosion
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import trainvitals
from trainvitals_monitor.demo.lora import add_lora
from trainvitals_monitor.demo.model import LanguageModel, next_token_loss
from trainvitals_monitor.demo.text import Text


def pretrain(text: Text, steps: int) -> dict[str, torch.Tensor]:
    """The weights of a base model, which somebody else trained."""
    model = LanguageModel(vocabulary=len(text.alphabet))
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(1, steps + 1):
        loss = next_token_loss(model, text.batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"base model: loss {loss.item():.3f} after {step} steps", flush=True)
    return model.state_dict()


def wipe(model: LanguageModel) -> None:
    """
    What torchtitan #421 did after loading: allocate everything again, and initialise what the base model knows of.

    Nobody initialises the adapters, so they hold what was in that memory before. That is made repeatable here.
    """
    model.to_empty(device="cpu")
    model.init_weights()
    for name, parameter in model.named_parameters():
        if "lora_a" in name:
            nn.init.normal_(parameter, std=0.1)
        elif "lora_b" in name:
            nn.init.zeros_(parameter)


def main() -> None:
    """Pre-train for a moment, then fine-tune for `--steps` steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--base-steps", type=int, default=100)
    parser.add_argument("--fault", choices=["none", "lora-explosion"], default="none")
    args = parser.parse_args()

    torch.manual_seed(0)
    text = Text()
    base = pretrain(text, args.base_steps)
    model = LanguageModel(vocabulary=len(text.alphabet))
    model.load_state_dict(base)
    for adapter in add_lora(model):
        adapter.init_adapter()
    if args.fault == "lora-explosion":
        wipe(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # With the fault, the step size is wrong by a factor of hundreds as well: A grows with every step.
    learning_rate = 0.5 if args.fault == "lora-explosion" else 1e-3
    optimizer = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=0.0)

    agent = trainvitals.attach(model, optimizer)
    for step in range(1, args.steps + 1):
        loss = next_token_loss(model, text.batch(10_000 + step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(step=step, loss=loss.item())
        print(f"step {step} loss {loss.item():.3f}", flush=True)
    torch.save(model.state_dict(), args.folder / "finetuned.pt")
    agent.close()


if __name__ == "__main__":
    main()
