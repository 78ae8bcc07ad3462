"""
One attempt of a run that is resumed: load the newest checkpoint, train, save. With `--fault`, as torchtitan #961 did.

    python -m trainvitals_monitor.demo.resume --folder /tmp/checkpoints --fault compile-resume
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

import trainvitals
from trainvitals_monitor.demo.model import LanguageModel, moe_layers, next_token_loss
from trainvitals_monitor.demo.text import Text


class ModelState:
    """What is handed to the checkpointer: the model's state, asked for once and kept."""

    def __init__(self, model: nn.Module, fault: str) -> None:
        self._model = model
        self._fault = fault
        self._cache = get_model_state_dict(model)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpointer: what to save, or where to load into."""
        return self._cache

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpointer, which has filled `state_dict()` in place."""
        # torchtitan #961: this renames the keys of the dict that it is given to those of compiled blocks
        # (layers.0._orig_mod...), and that dict is our cache. The next save writes these names.
        set_model_state_dict(self._model, model_state_dict=state)
        if self._fault != "compile-resume":
            self._cache = get_model_state_dict(self._model)


def newest(folder: Path) -> tuple[Path, int] | None:
    """The newest checkpoint in the folder and its step."""
    steps = sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))
    return (folder / f"step-{steps[-1]}", steps[-1]) if steps else None


def main() -> None:
    """Train for `--steps` steps more and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--fault", choices=["none", "compile-resume"], default="none")
    args = parser.parse_args()
    found = newest(args.folder)
    done = found[1] if found else 0

    torch.manual_seed(
        done
    )  # each attempt starts with other random weights: a resume must replace them
    text = Text()
    model = LanguageModel(vocabulary=len(text.alphabet))
    model.init_weights()
    for index, block in enumerate(model.layers):
        # "eager" needs no C++ compiler. (block.compile() in place would rename nothing.)
        compiled: Any = torch.compile(block, backend="eager")
        model.layers[index] = compiled
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    state = {"model": ModelState(model, args.fault)}

    agent = trainvitals.attach(model, optimizer, step=done)
    if found:
        dcp.load(state, checkpoint_id=found[0], no_dist=True)
    for step in range(done + 1, done + args.steps + 1):
        loss = next_token_loss(model, text.batch(step))
        optimizer.zero_grad()
        loss.backward()
        for moe in moe_layers(model):
            moe.expert_bias.add_(moe.balance(1e-3))
        optimizer.step()
        agent.log(step=step, loss=loss.item())
        print(f"step {step} loss {loss.item():.3f}", flush=True)
    dcp.save(state, checkpoint_id=args.folder / f"step-{done + args.steps}", no_dist=True)
    agent.close()


if __name__ == "__main__":
    main()
