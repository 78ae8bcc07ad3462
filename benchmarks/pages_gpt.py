"""
A small real training, for what has to be measured on real numbers: a GPT that learns the project's own pages by heart.

    python -m benchmarks.pages_gpt FOLDER --steps 2048 --budget none

Frames go to FOLDER. Six layers of width 64 on characters, AdamW with warm-up, one thread: about 10 ms a step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

import trainvitals
from benchmarks.report import ROOT

_CONTEXT, _BATCH, _WIDTH, _LAYERS = 32, 4, 64, 6
_WARM_UP = 100


class Gpt(nn.Module):
    """Characters in, logits of the next out."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, _WIDTH), nn.Embedding(_CONTEXT, _WIDTH)
        block = nn.TransformerEncoderLayer(
            _WIDTH, 4, 4 * _WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, _LAYERS, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, letters, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[batch, time] -> [batch, time, letters]."""
        length = tokens.shape[1]
        hidden = self.letters(tokens) + self.places(torch.arange(length))
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        logits: torch.Tensor = self.head(self.norm(self.blocks(hidden, mask, is_causal=True)))
        return logits


def train(folder: str, steps: int, budget: float | None) -> None:
    """The whole training, its frames into the folder."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    text = "".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))
    letters = sorted(set(text))
    number = {letter: index for index, letter in enumerate(letters)}
    data = torch.tensor([number[letter] for letter in text])
    model = Gpt(len(letters))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / _WARM_UP)
    )
    with trainvitals.attach(model, optimizer, run="gpt", monitor=folder, budget=budget) as agent:
        for step in range(steps):
            starts = torch.randint(len(data) - _CONTEXT - 1, (_BATCH,))
            rows = torch.stack([data[at : at + _CONTEXT + 1] for at in starts.tolist()])
            logits = model(rows[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            agent.log(loss=loss.detach())
            if step % 256 == 0:
                print(
                    f"\rtraining: step {step} of {steps}, loss {loss:.2f} ", end="", file=sys.stderr
                )
    print(file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2048)
    parser.add_argument("--budget", default="0.005", help="a share of step time, or none")
    given = parser.parse_args()
    train(str(given.folder), given.steps, None if given.budget == "none" else float(given.budget))
