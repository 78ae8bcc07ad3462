"""
torchtitan #961 with torch's own distributed checkpoints: three jobs in a row over block-compiled models.

`drift`: the state dict is made once per job, and `set_model_state_dict` renames the keys of the one that it is given;
the third job finds none of its names. `sound`: made anew after each load.
"""

import sys

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)

mode = sys.argv[1]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.wq = nn.Linear(32, 32)
        self.w2 = nn.Linear(32, 32)

    def forward(self, x):
        return x + self.w2(torch.relu(self.wq(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.layers = nn.ModuleDict({"0": Block(), "1": Block()})
        self.output = nn.Linear(32, 64)

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        for block in self.layers.values():
            hidden = block(hidden)
        return self.output(hidden)


class Wrapper:
    def __init__(self, model):
        self.model = model
        self.cached = get_model_state_dict(model)

    def state_dict(self):
        return self.cached

    def load_state_dict(self, state):
        set_model_state_dict(
            self.model, model_state_dict=state, options=StateDictOptions(strict=False)
        )
        if mode == "sound":
            self.cached = get_model_state_dict(self.model)


saved = None
for job in range(1, 4):
    torch.manual_seed(job)
    model = Net()
    for name, block in list(model.layers.items()):
        model.layers.register_module(name, torch.compile(block, backend="aot_eager"))
    wrapper = Wrapper(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if saved:
        try:
            dcp.load({"model": wrapper}, checkpoint_id=saved, no_dist=True)
        except dcp.api.CheckpointException as error:
            print(f"job {job} cannot resume: {error}")
            break
    for _ in range(12):
        tokens = torch.randint(0, 64, (16, 8))
        logits = model(tokens).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, (tokens.flatten() * 3 + 1) % 64)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    saved = f"job{job}"
    dcp.save({"model": wrapper}, checkpoint_id=saved, no_dist=True)
