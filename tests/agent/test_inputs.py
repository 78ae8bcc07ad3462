"""
The inputs probe: what it reads of a call, and that a hook on a wrapper is nothing that Dynamo could see.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainvitals.batch_digest import ELEMENTS, digest_of
from trainvitals.probes.inputs import BURST_STEPS, Inputs, _Hook
from trainvitals.probes.probe import Rested, _unguarded
from trainvitals.record import Record


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_digest_is_of_the_content() -> None:
    """Equal bits have equal digests, in nested arguments too; another element, order or shape has another."""
    batch = torch.arange(6.0).reshape(2, 3)
    assert digest_of((batch,)) == digest_of((batch.clone(),)) != 0
    assert digest_of(((), {"ids": batch})) == digest_of(((), {"ids": batch.clone()}))
    different = [batch + 1, batch.T, batch.reshape(3, 2), batch[:1]]
    assert len({digest_of((each,)) for each in [batch, *different]}) == 5
    large = torch.zeros(64, 28, 28)
    other = large.clone()
    other[:, 14, 14] = 1
    assert large.numel() > 100 * ELEMENTS
    assert digest_of(other.roll(1)) != digest_of(large + 1)


def test_what_cannot_be_read_is_no_data() -> None:
    """Tensors elsewhere, sparse ones, texts and numbers give nothing, and raise nothing."""
    odd = (torch.zeros(2, device="meta"), torch.eye(2).to_sparse(), "text", 3, None, torch.zeros(0))
    assert digest_of(odd) == 0
    assert digest_of((torch.zeros(2, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bool))) != 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("whole", [True, False])
def test_a_wrapper_that_is_compiled_later_has_its_one_graph(group: None, whole: bool) -> None:
    """A hooked wrapper, compiled from outside: as many graphs as without the hook, breaks and recompilations included."""
    counts = []
    for hooked in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        root: nn.Module = inner if whole else DistributedDataParallel(inner)
        hook = _Hook(root, (0, 1), _unguarded) if hooked else None
        compiled = torch.compile(root, backend="aot_eager", fullgraph=whole)
        for _ in range(4):
            compiled(torch.randn(2, 4)).sum().backward()
            if hook is not None:
                hook.take()
        seen = torch._dynamo.utils.counters
        # DDP's own forward breaks the graph, hooked or not.
        counts.append((seen["stats"]["unique_graphs"], set(seen["graph_break"])))
        if hook is not None:
            hook.remove()
            assert not root._forward_pre_hooks
    assert counts[0] == counts[1]
    assert counts[0][0] or not whole


def test_a_job_of_one_rank_has_no_hook() -> None:
    """There is nobody to compare with."""
    assert Inputs().touched() == []


def test_steps_of_a_rest_are_told_each() -> None:
    """Each with the digest of its own first call, within a burst; told when the rest is over."""
    root, inputs, record = nn.Linear(2, 1), Inputs(), Record(1 << 20)
    inputs._hooks = [_Hook(root, (0, 1), _unguarded)]
    inputs._first_step = 1
    batches = torch.arange(4.0 * (BURST_STEPS + 8)).reshape(-1, 2, 2)
    for step, batch in enumerate(batches, 1):
        root(batch)
        root(batch + 1)
        inputs.rest(step)
    assert "inputs" not in record.take()[0]
    inputs.after_rests(record, Rested())
    inputs.close()
    rows = record.take()[0]["inputs"]
    assert rows["step"].tolist() == list(range(1, BURST_STEPS + 2))
    assert set(rows["calls"][1:].tolist()) == {2}
    expected = [digest_of(((batch,), {})) for batch in batches[1 : BURST_STEPS + 1]]
    assert rows["input_digest"][1:].tolist() == expected
