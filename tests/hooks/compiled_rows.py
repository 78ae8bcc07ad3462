"""
Rows of the hook matrix: ways to compile, to recompute activations, and to save in the middle.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn import functional
from torch.optim import AdamW
from torch.utils.checkpoint import checkpoint

from tests.hooks.net import Net, adamw, batch, compiled, usual
from tests.hooks.running import Trainer


def plain() -> Trainer:
    """As in every tutorial."""
    model = Net()
    return usual(model, adamw(model))


def compile_inductor() -> Trainer:
    """The whole model, by inductor."""
    model = compiled(Net(), backend="inductor")
    return usual(model, adamw(model))


def compile_aot_eager() -> Trainer:
    """The whole model, as a new module."""
    model = compiled(Net())
    return usual(model, adamw(model))


def compile_in_place() -> Trainer:
    """The whole model, `model.compile()`."""
    model = Net()
    model.compile(backend="aot_eager", fullgraph=True)
    return usual(model, adamw(model))


def compile_attached_inside() -> Trainer:
    """The compiled module trains, and the agent is given the one that it was made of."""
    model = Net()
    outer = compiled(model)
    return Trainer(model, [(made := usual(outer, adamw(model))).optimizers[0]], made.train)


def compile_replaced_blocks() -> Trainer:
    """Each block is replaced by what torch.compile makes of it."""
    model = Net()
    for number, block in enumerate(model.blocks):
        model.blocks[number] = compiled(block)
    return usual(model, adamw(model))


def compile_blocks_in_place() -> Trainer:
    """Each block stays, and compiles its call."""
    model = Net()
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    return usual(model, adamw(model))


def compile_with_breaks() -> Trainer:
    """A graph break in the middle, of the user's own."""

    class Breaking(Net):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            hidden = self.blocks[0](self.embedding(ids))
            torch._dynamo.graph_break()
            out: torch.Tensor = self.head(self.blocks[1](hidden))
            return out

    model = compiled(Breaking(), fullgraph=False)
    return usual(model, adamw(model))


def _checkpointed() -> Net:
    model = Net()
    for number, block in enumerate(model.blocks):
        model.blocks[number] = checkpoint_wrapper(block)
    return model


def activation_checkpointing() -> Trainer:
    """Blocks in the wrapper that FSDP users take."""
    model = _checkpointed()
    return usual(model, adamw(model))


def activation_checkpointing_reentrant() -> Trainer:
    """The old kind: backward within backward."""

    class Checkpointed(Net):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            hidden = self.embedding(ids)
            for block in self.blocks:
                hidden = checkpoint(block, hidden, use_reentrant=True)
            out: torch.Tensor = self.head(hidden)
            return out

    model = Checkpointed()
    return usual(model, adamw(model))


def activation_checkpointing_compiled() -> Trainer:
    """The wrapped blocks in one graph."""
    model = compiled(_checkpointed())
    return usual(model, adamw(model))


def activation_checkpointing_compiled_blocks() -> Trainer:
    """As torchtitan: the wrapper in the block's place, compiled."""
    model = _checkpointed()
    for number, block in enumerate(model.blocks):
        model.blocks[number] = compiled(block)
    return usual(model, adamw(model))


def compiled_step() -> Trainer:
    """The optimizer's step is a graph of its own; the model is not compiled."""
    model = Net()
    optimizer = adamw(model)
    return usual(model, optimizer, torch.compile(optimizer.step, backend="aot_eager"))


def compiled_step_with_scheduler() -> Trainer:
    """A function that steps optimizer and scheduler, with a learning rate in a tensor, as torch's recipe has it."""
    model = Net()
    optimizer = AdamW(model.parameters(), lr=torch.tensor(1e-2))
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=4)

    @torch.compile(backend="aot_eager")
    def step() -> None:
        optimizer.step()
        scheduler.step()

    return usual(model, optimizer, step)


def compiled_model_and_step() -> Trainer:
    """Both."""
    model = compiled(Net())
    optimizer = adamw(model)
    return usual(model, optimizer, torch.compile(optimizer.step, backend="aot_eager"))


def compiled_iteration() -> Trainer:
    """Forward, loss, backward and step in one compiled function, which breaks where it must."""
    model = Net()
    optimizer = adamw(model)

    @torch.compile(backend="aot_eager")
    def iteration(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(ids), labels)
        loss.backward()
        optimizer.step()
        return loss

    return Trainer(model, [optimizer], lambda _i: iteration(*batch()))


def save_by_torch() -> Trainer:
    """torch.save in the middle, compiled."""
    model = compiled(Net())
    optimizer = adamw(model)

    def save(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "a.pt"
        )

    return usual(model, optimizer, save=save)


def save_by_dcp() -> Trainer:
    """A sharded save in the middle."""
    model = compiled(Net())
    return usual(
        model,
        adamw(model),
        save=lambda folder: dcp.save({"model": model.state_dict()}, checkpoint_id=folder),
    )


def save_and_load() -> Trainer:
    """Saved, and loaded again at once, in the middle of a compiled training."""
    model = compiled(Net())

    def save(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), folder / "b.pt")
        model.load_state_dict(torch.load(folder / "b.pt"))

    return usual(model, adamw(model), save=save)
