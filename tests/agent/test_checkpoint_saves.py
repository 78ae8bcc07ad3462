"""What the checkpoint probe says of saves, through the real saving functions."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save as safe_save
from safetensors.torch import save_file, save_model
from torch import nn

from trainvitals.cores import digest_many
from trainvitals.frame import CheckpointSeen
from trainvitals.probes.checkpoint import Checkpoints
from trainvitals.probes.probe import cut_sample
from trainvitals.record import Record
from trainvitals.slots import SlotTable

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


class Net(nn.Module):
    """Small and large tensors, a buffer that starts at zero, a tied weight."""

    expert_bias: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(700, 16)
        self.block = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))
        self.register_buffer("expert_bias", torch.zeros(4))
        self.head = nn.Linear(16, 700, bias=False)
        self.head.weight = self.embedding.weight


def async_save(state: dict[str, Any], path: Path) -> None:
    """async_save, with its upload awaited."""
    future = dcp.async_save(state, checkpoint_id=path, no_dist=True)
    assert isinstance(future, Future)
    future.result()


def compiled(module: nn.Module) -> nn.Module:
    """The wrapper that torch.compile puts around a module."""
    wrapper = torch.compile(module, backend="eager")
    assert isinstance(wrapper, nn.Module)
    return wrapper


class Watched:
    """A model under the probe, with a step counter of its own."""

    def __init__(self, model: Net) -> None:
        self.model = model
        self.step = 0
        self.slots = SlotTable([model])
        self.record = Record(1 << 24)
        self.probe = Checkpoints(self.slots, self.record, lambda: self.step)
        self.probe.start()

    def train(self, steps: int = 1) -> None:
        """Every tensor moves, buffers too."""
        self.step += steps
        with torch.no_grad():
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                tensor.add_(0.25 * self.step)

    def taken(self) -> tuple[list[CheckpointSeen], dict[str, Any]]:
        """Events and manifest rows since the last time."""
        tables, events, _ = self.record.take()
        return [e for e in events if isinstance(e, CheckpointSeen)], tables.get("manifest", {})

    def one(self) -> tuple[CheckpointSeen, dict[str, dict[str, Any]]]:
        """The one event, and its rows by key."""
        events, rows = self.taken()
        assert len(events) == 1
        event = events[0]
        by_key = {
            event.keys[entry]: {name: values[row] for name, values in rows.items()}
            for row, entry in enumerate(rows.get("entry", ()))
        }
        return event, by_key

    def live_digest(self, fqn: str, dtype: torch.dtype | None = None) -> int:
        """The digest of the live tensor, by cores.py alone."""
        index = next(i for i in range(len(self.slots)) if self.slots.fqn(i) == fqn)
        sample = cut_sample(self.slots, [index])
        values = sample.values if dtype is None else [sample.values[0].to(dtype)]
        return int(digest_many(values, sample.plans)["digest"][0])


@pytest.fixture
def watched() -> Iterator[Watched]:
    torch.manual_seed(0)
    watched = Watched(Net())
    yield watched
    watched.probe.close()


Saver = Callable[[dict[str, Any], Path], Any]

SAVERS: dict[str, tuple[str, Saver]] = {
    "zip": ("torch.save", lambda sd, path: torch.save(sd, path)),
    "legacy": (
        "torch.save",
        lambda sd, path: torch.save(sd, path, _use_new_zipfile_serialization=False),
    ),
    "dcp": (
        "torch.distributed.checkpoint.save",
        lambda sd, path: dcp.save(sd, checkpoint_id=path, no_dist=True),
    ),
    "dcp-async": (
        "torch.distributed.checkpoint.async_save",
        async_save,
    ),
    "save_file": (
        "safetensors.torch.save_file",
        lambda sd, path: save_file({k: v.clone() for k, v in sd.items()}, path),
    ),
}


@pytest.mark.parametrize("how", SAVERS)
def test_one_save_is_one_event_that_agrees_with_the_live_tensors(
    how: str, watched: Watched, tmp_path: Path
) -> None:
    """Each way to save gives one event, with every raw key, and digests equal to the live ones."""
    api, saver = SAVERS[how]
    watched.train(7)
    saver(watched.model.state_dict(), tmp_path / "saved")
    event, rows = watched.one()
    assert (event.op, event.api, event.step, event.number) == ("save", api, 7, 0)
    assert event.path == str(tmp_path / "saved")
    assert event.keys == list(watched.model.state_dict())
    assert event.live_keys == event.keys
    assert event.is_model
    assert not event.failed
    assert not event.foreign
    assert set(rows) == set(event.keys)
    for key, row in rows.items():
        assert row["digest"] == row["live_digest"] == watched.live_digest(key)
        assert row["stale_step"] == -1
        assert row["square_sum"] == row["live_square_sum"] > 0
        assert row["count"] == min(4096, watched.model.state_dict()[key].numel())


@pytest.mark.parametrize("how", SAVERS)
def test_a_dict_cached_at_the_start_is_stale_for_ever(
    how: str, watched: Watched, tmp_path: Path
) -> None:
    """torchtitan #1222: a re-assigned buffer's first zeros are saved; all else is in place and true."""
    cached = dict(watched.model.state_dict())
    watched.train()
    with torch.no_grad():
        watched.model.expert_bias = torch.full((4,), 0.5)
    # In-place updates reach the cached dict; the re-assigned buffer's old tensor is set back to its first state.
    cached["expert_bias"].zero_()
    SAVERS[how][1](cached, tmp_path / "saved")
    _, rows = watched.one()
    bias = rows.pop("expert_bias")
    assert bias["square_sum"] == 0
    assert bias["live_square_sum"] == 1
    assert bias["stale_step"] == 0
    assert bias["digest"] != bias["live_digest"]
    assert all(row["digest"] == row["live_digest"] for row in rows.values())


def test_an_old_copy_is_known_by_the_step_it_was_live(watched: Watched, tmp_path: Path) -> None:
    """An entry that equals what was live inside an earlier save carries that step."""
    watched.train(3)
    old = copy.deepcopy(watched.model.state_dict())
    torch.save(old, tmp_path / "a.pt")
    watched.train(2)
    torch.save(watched.model.state_dict(), tmp_path / "b.pt")
    watched.taken()
    watched.train()
    torch.save(
        {**watched.model.state_dict(), "block.0.weight": old["block.0.weight"]}, tmp_path / "c.pt"
    )
    event, rows = watched.one()
    assert event.number == 2
    assert rows["block.0.weight"]["stale_step"] == 3
    assert [key for key, row in rows.items() if row["stale_step"] != -1] == ["block.0.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_made_at_the_start_is_stale_once_training_moves_on(
    dtype: torch.dtype, watched: Watched, tmp_path: Path
) -> None:
    """As long as it equals the live tensors it is true; then it is known as the attempt's first state."""
    copied = {key: value.to(dtype, copy=True) for key, value in watched.model.state_dict().items()}
    watched.train(2)
    torch.save(copied, tmp_path / "late.pt")
    _, rows = watched.one()
    assert {int(row["stale_step"]) for row in rows.values()} == {0}


def test_a_state_saved_twice_is_not_stale(watched: Watched, tmp_path: Path) -> None:
    """Equal to an older look, but to the live tensor too."""
    for name in ("a.pt", "b.pt"):
        torch.save(watched.model.state_dict(), tmp_path / name)
        _, rows = watched.one()
        assert {int(row["stale_step"]) for row in rows.values()} == {-1}


def test_an_average_with_the_same_keys_is_not_stale(watched: Watched, tmp_path: Path) -> None:
    """An EMA equals neither the live tensors nor older ones: that is no staleness."""
    watched.train(1)
    ema = copy.deepcopy(watched.model.state_dict())
    torch.save(watched.model.state_dict(), tmp_path / "first.pt")
    watched.taken()
    watched.train(1)
    for key, live in watched.model.state_dict().items():
        ema[key].lerp_(live, 0.1)
    torch.save({"model": watched.model.state_dict(), "ema": ema}, tmp_path / "both.pt")
    event, rows = watched.one()
    own = {key: row for key, row in rows.items() if key.startswith("ema.")}
    assert len(own) == len(rows) / 2 == len(event.keys) / 2
    assert all(
        row["stale_step"] == -1 and row["digest"] != row["live_digest"] for row in own.values()
    )
    assert all(row["square_sum"] > 0 for row in own.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_save_is_compared_in_the_saved_dtype(
    dtype: torch.dtype, watched: Watched, tmp_path: Path
) -> None:
    """A half-precision copy of the live weights is a true save; one of older weights is stale."""
    watched.train()
    cast = {key: value.to(dtype) for key, value in watched.model.state_dict().items()}
    torch.save(cast, tmp_path / "cast.pt")
    event, rows = watched.one()
    assert set(event.dtypes) == {str(dtype).removeprefix("torch.")}
    for key, row in rows.items():
        assert row["digest"] == row["live_digest"] == watched.live_digest(key, dtype)
    watched.train(4)
    torch.save(cast, tmp_path / "again.pt")
    _, rows = watched.one()
    assert {int(row["stale_step"]) for row in rows.values()} == {1}


def test_nested_and_prefixed_keys_find_their_tensors(watched: Watched, tmp_path: Path) -> None:
    """Containers and common prefixes are taken off; the raw key is reported with them."""
    state = watched.model.state_dict()
    torch.save(
        {"app": {"model": state, "step": 3}, "optim": {"state": {0: state}}}, tmp_path / "a.pt"
    )
    event, _ = watched.one()
    assert event.keys == [f"app.model.{key}" for key in state]
    assert event.live_keys == list(state)
    torch.save(
        {f"state_dict.module.{key}": value for key, value in state.items()}, tmp_path / "b.pt"
    )
    event, rows = watched.one()
    assert event.keys == [f"state_dict.module.{key}" for key in state]
    assert -1 not in event.tensors
    assert len(rows) == len(state)


def test_renamed_keys_find_their_tensors_by_storage(watched: Watched, tmp_path: Path) -> None:
    """A name that nobody knows, on a live tensor's own memory, is that tensor."""
    state = watched.model.state_dict()
    renamed = {f"transformer/{key.replace('.', '/')}": value for key, value in state.items()}
    torch.save(renamed, tmp_path / "a.pt")
    event, rows = watched.one()
    assert event.live_keys[event.keys.index("transformer/block/0/weight")] == "block.0.weight"
    assert all(row["digest"] == row["live_digest"] for row in rows.values())


def test_what_is_no_model_gives_no_event(watched: Watched, tmp_path: Path) -> None:
    """One tensor, scalars, another model with other names and an optimizer that has no state are not reported."""
    optimizer = torch.optim.SGD(watched.model.parameters(), 0.1, momentum=0.9)
    torch.save(optimizer.state_dict(), tmp_path / "a.pt")
    torch.save(watched.model.embedding.weight, tmp_path / "b.pt")
    torch.save({"epoch": 3, "losses": [0.1] * 20_000}, tmp_path / "c.pt")
    torch.save(nn.Conv2d(2, 2, 2).state_dict(), tmp_path / "d.pt")
    assert watched.taken()[0] == []


def test_a_save_tells_whether_it_has_an_optimizers_state(watched: Watched, tmp_path: Path) -> None:
    """In a file of its own, beside the model, or not at all; the moments themselves are no entries."""
    model = watched.model
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.block[0](torch.ones(1, 16)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "a.pt")
    torch.save({"model": model.state_dict(), "optim": optimizer.state_dict()}, tmp_path / "b.pt")
    torch.save(model.state_dict(), tmp_path / "c.pt")
    alone, both, neither = watched.taken()[0]
    assert (alone.has_optimizer, alone.is_model, alone.keys) == (True, False, [])
    assert (both.has_optimizer, both.is_model) == (True, True)
    assert not any("momentum" in key for key in both.keys)
    assert (neither.has_optimizer, neither.is_model) == (False, True)


def test_another_model_that_shares_a_few_names_is_not_ours(
    watched: Watched, tmp_path: Path
) -> None:
    """One name and shape in common with a dict of others does not make it the attached model's."""
    other = {f"other.{n}": torch.ones(3) for n in range(5)}
    torch.save({**other, "expert_bias": torch.zeros(4)}, tmp_path / "a.pt")
    assert watched.taken()[0] == []


def test_a_pickled_module_is_walked_without_its_hooks(watched: Watched, tmp_path: Path) -> None:
    """torch.save(model) gives the module tree's names."""
    torch.save({"net": watched.model}, tmp_path / "a.pt")
    event, rows = watched.one()
    assert "net.block.0.weight" in event.keys
    assert all(row["digest"] == row["live_digest"] for row in rows.values())


def test_safetensors_save_model_and_bytes(watched: Watched, tmp_path: Path) -> None:
    """save_model drops the tied name, save gives bytes: one event each."""
    save_model(watched.model, str(tmp_path / "a.safetensors"))
    event, rows = watched.one()
    assert event.api == "safetensors.torch.save_file"
    assert len(rows) == len(watched.model.state_dict()) - 1
    state = watched.model.state_dict()
    safe_save({key: state[key] for key in ("expert_bias", "block.0.bias")})
    event, rows = watched.one()
    assert (event.api, event.path) == ("safetensors.torch.save", "")
    assert set(rows) == {"expert_bias", "block.0.bias"}


def test_live_keys_are_those_of_a_fresh_state_dict(tmp_path: Path) -> None:
    """With a compiled block and an activation-checkpointed one, as state_dict names them."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = Net()
    model.block[0] = compiled(model.block[0])
    model.block[1] = checkpoint_wrapper(model.block[1])
    watched = Watched(model)
    try:
        torch.save(model.state_dict(), tmp_path / "a.pt")
        event, rows = watched.one()
    finally:
        watched.probe.close()
    assert "block.0._orig_mod.weight" in event.keys
    assert event.live_keys == event.keys
    assert len(rows) == len(event.keys)


def test_a_save_on_another_thread_gives_keys_and_no_numbers(watched: Watched) -> None:
    """Nothing is read there: the trainer may be changing it."""
    thread = threading.Thread(target=torch.save, args=(watched.model.state_dict(), io.BytesIO()))
    thread.start()
    thread.join()
    event, rows = watched.one()
    assert event.keys == list(watched.model.state_dict())
    assert rows == {}


def test_odd_tensors_are_entries_without_numbers(watched: Watched, tmp_path: Path) -> None:
    """A sparse and a mis-shaped entry do not disturb the others."""
    state = watched.model.state_dict()
    state["expert_bias"] = state["expert_bias"].to_sparse()
    state["block.0.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "a.pt")
    event, rows = watched.one()
    assert len(event.keys) == len(state)
    assert set(state) - set(rows) == {"expert_bias", "block.0.bias"}
    assert event.tensors[event.keys.index("block.0.bias")] == -1


def test_manifest_rows_encode_as_a_frame_table(watched: Watched, tmp_path: Path) -> None:
    """Columns have the dtypes of facts.MANIFEST and one length."""
    torch.save(watched.model.state_dict(), tmp_path / "a.pt")
    _, rows = watched.taken()
    assert {len(values) for values in rows.values()} == {len(watched.model.state_dict())}
    assert rows["live_digest"].dtype == np.uint64
    assert {"checkpoint", "entry", "tensor", "step", "sketch_7"} <= set(rows)


def test_buffers_left_out_of_a_save_have_their_digests_reported(
    watched: Watched, tmp_path: Path
) -> None:
    """The next attempt's are compared with them."""
    watched.train(3)
    watched.record.take()
    torch.save(dict(watched.model.named_parameters()), tmp_path / "model.pt")
    tables, _, _ = watched.record.take()
    rows = tables["digests"]
    assert [watched.slots.fqn(index) for index in rows["tensor"]] == ["expert_bias"]
    assert rows["step"].tolist() == [3]
    assert int(rows["digest"][0]) == watched.live_digest("expert_bias")
