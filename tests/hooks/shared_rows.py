"""
The hook matrix on two ranks: ways to share a model, compiled or not, saved in the middle or not.
"""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from tests.hooks.net import Net, adamw, compiled, loss_of, usual
from tests.hooks.running import Row, Trainer


def ddp() -> Trainer:
    """The wrapper."""
    model = DistributedDataParallel(Net())
    return usual(model, adamw(model))


def ddp_compiled() -> Trainer:
    """Compiled around the wrapper: Dynamo cuts the graph at the wrapper's buckets."""
    model = compiled(DistributedDataParallel(Net()), fullgraph=False)
    return usual(model, adamw(model))


def ddp_around_compiled() -> Trainer:
    """The wrapper around a compiled model."""
    model = DistributedDataParallel(compiled(Net()))
    return usual(model, adamw(model))


def ddp_accumulation() -> Trainer:
    """Gradients are averaged in every second microbatch."""
    model = DistributedDataParallel(Net())
    optimizer = adamw(model)

    def train(_i: int) -> torch.Tensor:
        optimizer.zero_grad()
        losses = []
        for last in (False, True):
            with contextlib.nullcontext() if last else model.no_sync():
                losses.append(loss_of(model))
                losses[-1].backward()
        optimizer.step()
        return torch.stack(losses).mean()

    return Trainer(model, [optimizer], train)


def ddp_checkpointed() -> Trainer:
    """Activation checkpointing within the wrapper."""
    inner = Net()
    for number, block in enumerate(inner.blocks):
        inner.blocks[number] = checkpoint_wrapper(block)
    model = DistributedDataParallel(inner)
    return usual(model, adamw(model))


def ddp_zero() -> Trainer:
    """Each rank's optimizer holds a part of the parameters, which is sent to the others after the step."""
    model = DistributedDataParallel(Net())
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), torch.optim.AdamW, lr=1e-2, parameters_as_bucket_view=False
    )
    return usual(model, optimizer)


def _fsdp2(*, checkpointed: bool = False, compiles_blocks: bool = False) -> Net:
    model, mesh = Net(), init_device_mesh("cpu", (dist.get_world_size(),))
    for number, block in enumerate(model.blocks):
        inner = checkpoint_wrapper(block) if checkpointed else block
        if compiles_blocks:
            inner.compile(backend="aot_eager", fullgraph=True)
        model.blocks[number] = inner
    for part in (*model.blocks, model):
        # gloo has no average: sum, then divide (pytorch's own switch for it)
        cast(Any, fully_shard(part, mesh=mesh)).set_force_sum_reduction_for_comms(True)
    return model


def fsdp2() -> Trainer:
    """Blocks and the rest in groups of their own."""
    model = _fsdp2()
    return usual(model, adamw(model))


def fsdp2_compiled() -> Trainer:
    """Compiled as a whole."""
    model = _fsdp2()
    return usual(compiled(model, fullgraph=False), adamw(model))


def fsdp2_compiled_blocks() -> Trainer:
    """As torchtitan compiles."""
    model = _fsdp2(compiles_blocks=True)
    return usual(model, adamw(model))


def fsdp2_checkpointed() -> Trainer:
    """With activation checkpointing."""
    model = _fsdp2(checkpointed=True)
    return usual(model, adamw(model))


def fsdp2_checkpointed_compiled_blocks() -> Trainer:
    """torchtitan's order: checkpointing, compile, shards."""
    model = _fsdp2(checkpointed=True, compiles_blocks=True)
    return usual(model, adamw(model))


def fsdp2_sharded_save() -> Trainer:
    """Each rank writes its part, in the middle."""
    model = _fsdp2(compiles_blocks=True)
    return usual(
        model,
        adamw(model),
        save=lambda folder: dcp.save({"model": model.state_dict()}, checkpoint_id=_common(folder)),
    )


def fsdp2_async_save() -> Trainer:
    """A copy is staged, and written while training goes on."""
    model = _fsdp2()

    def save(folder: Path) -> None:
        made = dcp.async_save({"model": model.state_dict()}, checkpoint_id=_common(folder))
        cast(Any, made).result()

    return usual(model, adamw(model), save=save)


def _common(folder: Path) -> Path:
    """One folder of all ranks."""
    return folder.parent.parent / "shared" / folder.parent.name


def _fsdp1(use_orig_params: bool) -> Trainer:
    model = FullyShardedDataParallel(
        Net(), device_id=torch.device("cpu"), use_orig_params=use_orig_params
    )
    return usual(model, adamw(model))


def fsdp1() -> Trainer:
    """The old wrapper, which shows the optimizer views of its flat parameters."""
    return _fsdp1(use_orig_params=True)


def fsdp1_flat() -> Trainer:
    """The old wrapper, one flat parameter."""
    return _fsdp1(use_orig_params=False)


def masters() -> Trainer:
    """bf16 weights, fp32 clones in the optimizer, written back after the step, as Megatron-LM and many by hand do."""
    model = Net().bfloat16()
    clones = [nn.Parameter(copy.deepcopy(p.detach()).float()) for p in model.parameters()]
    for parameter, clone in zip(model.parameters(), clones, strict=True):
        cast(Any, parameter).main_param = clone
    optimizer = torch.optim.AdamW(clones, lr=1e-2)

    def step() -> None:
        for parameter, clone in zip(model.parameters(), clones, strict=True):
            assert parameter.grad is not None
            clone.grad = parameter.grad.float()
            dist.all_reduce(clone.grad)
            parameter.grad = None
        optimizer.step()
        with torch.no_grad():
            for parameter, clone in zip(model.parameters(), clones, strict=True):
                parameter.copy_(clone)

    return usual(model, optimizer, step)


SHARED_ROWS: tuple[Row, ...] = tuple(
    map(
        Row,
        (
            ddp, ddp_compiled, ddp_around_compiled, ddp_accumulation, ddp_checkpointed, ddp_zero,
            fsdp2, fsdp2_compiled, fsdp2_compiled_blocks, fsdp2_checkpointed,
            fsdp2_checkpointed_compiled_blocks, fsdp2_sharded_save, fsdp2_async_save,
            fsdp1, fsdp1_flat, masters,
        ),
    )
)  # fmt: skip
