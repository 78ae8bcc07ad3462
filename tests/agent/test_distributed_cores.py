"""
Two processes, real FSDP2, DTensor and DDP: what the ranks measure of their parts merges to the unsharded facts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.forked import run_ranks
from trainvitals.cores import cut_many, digest_many, plan_cores
from trainvitals.facts import DIGESTS
from trainvitals.layout import layout_of, local_part
from trainvitals.sweep import norms

Columns = dict[str, npt.NDArray[Any]]

WORLD = 2
WAIT_S = 120


class Model(nn.Module):
    """Large and small, even and odd in their first dims (37, 3 and 1 rows on two ranks), with stacked experts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(37, 200)
        self.experts = nn.Parameter(torch.randn(3, 200, 40))
        self.head = nn.Linear(40, 300)
        self.out = nn.Linear(300, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """A number a token."""
        hidden = torch.einsum("nd,edf->nf", self.embed(tokens), self.experts)
        out: torch.Tensor = self.out(torch.tanh(self.head(hidden)))
        return out


def seeded() -> Model:
    """The same model on every rank, and in the test's process."""
    torch.manual_seed(7)
    return Model()


def backward(model: nn.Module) -> None:
    """Gradients of the same tokens on every rank."""
    model(torch.arange(37)).square().mean().backward()


def facts(model: nn.Module, **how: Any) -> Columns:
    """Digests, norms, gradient norms and layouts of all parameters, from local parts alone."""
    names, tensors = zip(*model.named_parameters(), strict=True)
    layouts = [layout_of(tensor, **how) for tensor in tensors]
    plans = [
        plan_cores(name.removeprefix("module."), layout)
        for name, layout in zip(names, layouts, strict=True)
    ]
    parts = [local_part(tensor) for tensor in tensors]
    columns = digest_many(cut_many(parts, plans), plans)
    columns["norm"] = norms(parts)
    gradients = [local_part(t.grad) if t.grad is not None else torch.zeros(1) for t in tensors]
    columns["grad_norm"] = norms(gradients)
    columns["layout"] = np.array([repr(astuple(layout)) for layout in layouts])
    return columns


def fsdp(shard_dim: int | None = None) -> Columns:
    """FSDP2 over all ranks, after one backward pass; `shard_dim` for parameters of two dims or more."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    def place(parameter: nn.Parameter) -> Shard | None:
        return Shard(shard_dim) if shard_dim is not None and parameter.dim() > 1 else None

    model = seeded()
    # FSDP2 cuts dims other than 0 only evenly: 200, 40 and 300 columns are.
    root: Any = fully_shard(model, shard_placement_fn=place)
    root.set_force_sum_reduction_for_comms(True)  # gloo has no averaging reduce-scatter
    backward(model)
    return facts(model, world_size=WORLD)


def columns() -> Columns:
    """Every matrix a DTensor cut along its second dim, the rest replicated: tensor parallelism."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (WORLD,))
    model = seeded()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            place = Shard(1) if parameter.dim() > 1 else Replicate()
            sharded = distribute_tensor(parameter.detach(), mesh, [place])
            setattr(module, name, nn.Parameter(sharded))
    return facts(model, world_size=WORLD)


def ddp() -> Columns:
    """DistributedDataParallel after one backward pass."""
    model = nn.parallel.DistributedDataParallel(seeded())
    backward(model)
    return facts(model, replicas=range(WORLD), world_size=WORLD)


CASES: dict[str, Callable[[], Columns]] = {
    "fsdp": fsdp,
    "fsdp columns": lambda: fsdp(1),
    "dtensor columns": columns,
    "ddp": ddp,
}


def work(rank: int, folder: Path) -> None:
    """One rank: all cases, one after another."""
    meeting = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD)
    for name, case in CASES.items():
        np.savez(folder / f"{name}-{rank}.npz", **case())  # type: ignore[arg-type]
    dist.barrier()
    os._exit(0)  # gloo's threads can hang at exit


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Columns]]:
    """What each rank measured, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    for ended in run_ranks(work, [(rank, folder) for rank in range(WORLD)], limit_s=WAIT_S):
        assert ended.status == 0, ended.errors
    return {
        name: [dict(np.load(folder / f"{name}-{rank}.npz")) for rank in range(WORLD)]
        for name in CASES
    }


@pytest.fixture(scope="module")
def unsharded() -> Columns:
    """The same model, in this process alone."""
    model = seeded()
    backward(model)
    return facts(model)


def merged(parts: list[Columns], column: str) -> npt.NDArray[Any]:
    """Ranks' parts as facts says they add up; a part that several ranks hold counts once."""
    rows = [
        np.array(list({part["layout"][row]: part[column][row] for part in parts}.values()))
        for row in range(len(parts[0][column]))
    ]
    if "norm" in column:
        return np.sqrt([np.square(row).sum() for row in rows])
    return np.array([row.sum() for row in rows])


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_digests_merge(case: str, ranks: dict[str, list[Columns]], unsharded: Columns) -> None:
    """Summed over distinct parts, every digest and count is the unsharded one to the bit, sums to rounding."""
    for column in (column.name for column in DIGESTS.columns):
        found = merged(ranks[case], column)
        if found.dtype == np.float64:
            np.testing.assert_allclose(found, unsharded[column], rtol=1e-9, atol=1e-9)
        else:
            np.testing.assert_array_equal(found, unsharded[column])


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_norms_merge(case: str, ranks: dict[str, list[Columns]], unsharded: Columns) -> None:
    """Norms of the parts, squared and summed, are the unsharded tensor's; those of gradients too."""
    np.testing.assert_allclose(merged(ranks[case], "norm"), unsharded["norm"], rtol=1e-6)
    if case != "dtensor columns":  # no backward pass there
        found = merged(ranks[case], "grad_norm")
        np.testing.assert_allclose(found, unsharded["grad_norm"], rtol=1e-4)


@pytest.mark.distributed
def test_ranks_hold_different_boxes(ranks: dict[str, list[Columns]]) -> None:
    """FSDP2's parts are boxes, no two alike, the odd rows on rank 0."""
    first, second = (part["layout"].tolist() for part in ranks["fsdp"])
    assert not set(first) & set(second)
    assert first[0] == repr(("box", (3, 200, 40), (0, 0, 0), (2, 200, 40), ""))
    assert second[0] == repr(("box", (3, 200, 40), (2, 0, 0), (1, 200, 40), ""))
    assert second[1] == repr(("box", (37, 200), (19, 0), (18, 200), ""))


@pytest.mark.distributed
def test_replicas_are_the_same_on_all_ranks(ranks: dict[str, list[Columns]]) -> None:
    """Under DDP every rank says the same of every tensor, in one replica group: also digests are equal."""
    first, second = ranks["ddp"]
    assert first["layout"].tolist() == second["layout"].tolist()
    assert first["layout"][1] == repr(("replica", (37, 200), (0, 0), (37, 200), "0-1"))
    np.testing.assert_array_equal(first["digest"], second["digest"])
