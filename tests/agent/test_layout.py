"""
What part of a tensor a rank holds: boxes worked out from placements, checked against torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import Placement, _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

from trainvitals.layout import Layout, flat_layout, layout_of, local_part, shard_box


@st.composite
def meshes(draw: st.DrawFn) -> tuple[list[int], list[int], list[Placement]]:
    """A global shape, a mesh of one to three axes, and how each axis places the tensor."""
    shape = draw(st.lists(st.integers(1, 13), min_size=1, max_size=3))
    mesh = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    dims = st.sampled_from([*range(len(shape)), None])
    placements = [draw(dims) for _ in mesh]
    return shape, mesh, [Replicate() if dim is None else Shard(dim) for dim in placements]


@given(meshes())
def test_boxes_are_those_of_torch(case: tuple[list[int], list[int], list[Placement]]) -> None:
    """Offsets and sizes at every mesh coordinate are what torch works out, also where shards are short or empty."""
    shape, mesh, placements = case
    for coordinate in product(*map(range, mesh)):
        sizes, offsets = _compute_local_shape_and_global_offset(
            tuple(shape), tuple(mesh), list(coordinate), placements
        )
        assert shard_box(shape, mesh, coordinate, placements) == (offsets, sizes)


@given(meshes())
def test_boxes_tile_the_tensor(case: tuple[list[int], list[int], list[Placement]]) -> None:
    """Every element lies in as many boxes as there are replicas: one, where nothing is replicated."""
    shape, mesh, placements = case
    held = np.zeros(shape, int)
    for coordinate in product(*map(range, mesh)):
        box = shard_box(shape, mesh, coordinate, placements)
        assert box is not None
        held[tuple(slice(low, low + size) for low, size in zip(*box, strict=True))] += 1
    replicas = [size for size, place in zip(mesh, placements, strict=True) if place.is_replicate()]
    assert (held == math.prod(replicas)).all()


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 4))
def test_fsdp_over_tensor_parallel(rows: int, dp: int, tp: int) -> None:
    """FSDP2 cuts what TP left over: inside out gives its boxes, also uneven, and torch's offsets where those agree."""
    placements = [_StridedShard(0, split_factor=tp), Shard(0)]
    for shard, chunk in enumerate(torch.arange(rows).chunk(tp)):
        for rank, mine in enumerate(chunk.chunk(dp)):
            box = shard_box((rows, 2), (dp, tp), (rank, shard), placements, inside_out=True)
            assert box == ((int(mine[0]), 0), (len(mine), 2))
            sizes, offsets = _compute_local_shape_and_global_offset(
                (rows, 2), (dp, tp), [rank, shard], placements
            )
            in_order = shard_box((rows, 2), (dp, tp), (rank, shard), placements)
            assert in_order in (None, (offsets, sizes))
            if rows % (dp * tp) == 0:
                assert in_order == box


def test_a_torn_part_is_no_box() -> None:
    """A strided shard that nothing joins again holds rows 0, 1, 4, 5: no box, so unknown."""
    assert shard_box((8,), (2,), (0,), [_StridedShard(0, split_factor=2)]) is None
    assert shard_box((8,), (2,), (0,), [Partial()]) is None


def test_plain_tensors() -> None:
    """One process: full. A DDP root: replicas of all ranks. Several ranks and nothing said: unknown, and not merged."""
    weight = torch.zeros(3, 4)
    assert layout_of(weight) == Layout("full", (3, 4), (0, 0), (3, 4))
    replica = layout_of(weight, replicas=range(8), world_size=8)
    assert replica == Layout("replica", (3, 4), (0, 0), (3, 4), "0-7")
    unknown = layout_of(weight, world_size=8)
    assert unknown == Layout("unknown", (3, 4), (0, 0), (3, 4))
    assert flat_layout((3, 4), 5, 2) == Layout("flat", (3, 4), (5,), (2,))
    assert flat_layout((3, 4), 5, 2).local_numel == 2
    assert layout_of(torch.tensor(1.0)).numel == 1


@pytest.fixture
def world_of_four() -> Iterator[None]:
    """Rank 1 of 4, with a process group that talks to nobody."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    yield
    dist.destroy_process_group()


def distributed(
    local: torch.Tensor, shape: tuple[int, ...], mesh: tuple[int, ...], *placements: Placement
) -> DTensor:
    """A DTensor of that global shape, with this rank's part given."""
    device_mesh = init_device_mesh("cpu", mesh)
    stride = torch.empty(shape).stride()
    return DTensor.from_local(
        local, device_mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )


@pytest.mark.usefixtures("world_of_four")
def test_dtensors() -> None:
    """Shards are boxes, replicated axes name the ranks with the same part, Partial says nothing."""
    uneven = layout_of(distributed(torch.zeros(2, 3), (5, 3), (4,), Shard(0)))
    assert uneven == Layout("box", (5, 3), (2, 0), (2, 3))
    columns = layout_of(distributed(torch.zeros(5, 1), (5, 4), (4,), Shard(1)))
    assert columns == Layout("box", (5, 4), (0, 1), (5, 1))
    hybrid = layout_of(distributed(torch.zeros(2, 3), (4, 3), (2, 2), Replicate(), Shard(0)))
    assert hybrid == Layout("box", (4, 3), (2, 0), (2, 3), "1-3:2")
    everywhere = layout_of(distributed(torch.zeros(4), (4,), (4,), Replicate()))
    assert everywhere == layout_of(torch.zeros(4), replicas=range(4), world_size=4)
    partial = layout_of(distributed(torch.zeros(4), (4,), (4,), Partial()))
    assert (partial.kind, partial.local_numel) == ("unknown", 0)
    assert layout_of(distributed(torch.tensor(1.0), (), (4,), Partial())).local_numel == 0


@pytest.mark.usefixtures("world_of_four")
def test_a_part_that_is_not_what_the_placements_say() -> None:
    """A DTensor whose local tensor has another size than its placements say is unknown, not a wrong box."""
    liar = distributed(torch.zeros(3, 3), (5, 3), (4,), Shard(0))
    assert layout_of(liar).kind == "unknown"


@pytest.mark.usefixtures("world_of_four")
def test_default_device_does_not_matter() -> None:
    """A user's default device (meta: nothing can be read there) has no part in layouts."""
    weight = distributed(torch.zeros(2, 3), (5, 3), (4,), Shard(0))
    with torch.device("meta"):
        assert layout_of(weight).offsets == (2, 0)


@pytest.mark.usefixtures("world_of_four")
def test_local_part_is_the_storage_itself() -> None:
    """Plain, detached, sharing memory; the version counter and requires_grad stay as they were."""
    inner = torch.zeros(2, 3)
    weight = torch.nn.Parameter(distributed(inner, (5, 3), (4,), Shard(0)))
    for owner in (weight, torch.nn.Parameter(torch.zeros(2))):
        version = owner._version
        part = local_part(owner)
        assert type(part) is torch.Tensor
        assert not part.requires_grad
        assert owner.requires_grad
        assert owner._version == version
    assert local_part(weight).data_ptr() == inner.data_ptr()


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5000), min_size=2, max_size=6, unique=True).map(sorted))
def test_replica_groups_differ_where_ranks_do(ranks: list[int]) -> None:
    """Two sets of ranks never get the same name."""
    from trainvitals.layout import _rank_range

    other = [*ranks[:-1], ranks[-1] + 1]
    assert _rank_range(ranks) != _rank_range(other)
    assert _rank_range(ranks[:1]) == ""
