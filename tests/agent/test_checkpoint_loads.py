"""What the checkpoint probe says of loads: into attached models, into others, and before anybody attached."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_model, save_model
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

from trainvitals.frame import CheckpointSeen
from trainvitals.probes.checkpoint import WATCH, Checkpoints
from trainvitals.probes.probe import Choice, Look
from trainvitals.record import Record
from trainvitals.slots import SlotTable

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


def make(seed: int = 0, width: int = 80) -> nn.Sequential:
    """A model with a tensor larger than its cores (80 x 80)."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, 3))


def compiled(module: nn.Module) -> nn.Module:
    """The wrapper that torch.compile puts around a module."""
    wrapper = torch.compile(module, backend="eager")
    assert isinstance(wrapper, nn.Module)
    return wrapper


class Watched:
    """Models under the probe at step 5."""

    def __init__(self, *models: nn.Module) -> None:
        self.slots = SlotTable(models)
        self.record = Record(1 << 24)
        self.probe = Checkpoints(self.slots, self.record, lambda: 5)
        self.probe.start()

    def taken(self) -> tuple[list[CheckpointSeen], list[dict[str, Any]]]:
        """Events, and the manifest's rows as dicts."""
        tables, events, _ = self.record.take()
        columns: dict[str, Any] = {"entry": [], **tables.get("manifest", {})}
        rows = [
            {name: columns[name][row] for name in columns} for row in range(len(columns["entry"]))
        ]
        return [e for e in events if isinstance(e, CheckpointSeen)], rows

    def one(self) -> tuple[CheckpointSeen, dict[str, dict[str, Any]]]:
        """The one event, and its rows by key."""
        events, rows = self.taken()
        assert len(events) == 1
        return events[0], {events[0].keys[row["entry"]]: row for row in rows}

    def digests_before_step(self, *, first: bool = False) -> dict[str, Any]:
        """What the probe reports just before the next step."""
        look = Look(step=6, slots=self.slots, record=self.record, choice=Choice(), first=first)
        self.probe.before_step(look)
        return dict(self.record.take()[0].get("digests", {}))


@pytest.fixture(autouse=True)
def _fresh_journal() -> Iterator[None]:
    """No load of another test is remembered; every patch is gone at the end."""
    WATCH.journal.forget()
    yield
    assert WATCH.touched() == []


@pytest.fixture
def model() -> nn.Sequential:
    return make()


@pytest.fixture
def watched(model: nn.Sequential) -> Iterator[Watched]:
    watched = Watched(model)
    yield watched
    watched.probe.close()


def test_a_load_is_one_event_and_live_equals_loaded(model: nn.Module, watched: Watched) -> None:
    """Digests of what was handed over equal those of the live tensors after the load."""
    state = make(seed=1).state_dict()
    result = model.load_state_dict(state)
    assert result == nn.modules.module._IncompatibleKeys([], [])
    event, rows = watched.one()
    assert (event.op, event.api, event.step) == ("load", "Module.load_state_dict", 5)
    assert event.keys == list(state)
    assert event.live_keys == list(state)
    assert (event.missing, event.unexpected, event.failed, event.foreign) == ([], [], False, False)
    assert len(rows) == len(state)
    assert all(row["digest"] == row["live_digest"] for row in rows.values())


def test_missing_and_unexpected_keys_are_reported(model: nn.Module, watched: Watched) -> None:
    """A load that is not strict says what it did not find, and the probe repeats it."""
    state = {"0.weight": torch.ones(80, 80), "surplus": torch.ones(2)}
    result = model.load_state_dict(state, strict=False)
    event, rows = watched.one()
    assert event.missing == result.missing_keys
    assert "2.bias" in event.missing
    assert event.unexpected == ["surplus"]
    assert list(rows) == ["0.weight"]


def test_a_strict_load_that_raises_is_a_failed_one(model: nn.Module, watched: Watched) -> None:
    """torch's own error passes through, and the event says that the call raised."""
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict"):
        model.load_state_dict({"0.weight": torch.ones(80, 80)})
    event, _ = watched.one()
    assert event.failed


def test_a_load_into_other_precision_compares_in_the_live_dtype(watched: Watched) -> None:
    """float32 weights loaded into a bfloat16 model are in effect, though their bits were cut."""
    model = make().bfloat16()
    other = Watched(model)
    try:
        model.load_state_dict(make(seed=2).state_dict())
        event, rows = other.one()
    finally:
        other.probe.close()
    assert event.dtypes[0] == "float32"
    assert all(row["digest"] == row["live_digest"] for row in rows.values())


def test_a_load_that_assigns_is_read_from_the_new_tensors(
    model: nn.Module, watched: Watched
) -> None:
    """assign=True puts other objects into the slots; the live digests are theirs."""
    state = make(seed=3).state_dict()
    model.load_state_dict(state, assign=True)
    _, rows = watched.one()
    assert all(row["digest"] == row["live_digest"] for row in rows.values())


def test_overrides_that_call_super_and_children_give_no_second_event() -> None:
    """A subclass's override stays in charge, and one call is one event."""

    class Strict(nn.Sequential):
        calls = 0

        def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return super().load_state_dict(state_dict, *args, **kwargs)

    class WithHook(nn.Linear):
        def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
            nn.Linear(2, 2).load_state_dict(nn.Linear(2, 2).state_dict())
            super()._load_from_state_dict(state_dict, prefix, *args)

    model = Strict(WithHook(4, 4), nn.Linear(4, 4))
    watched = Watched(model)
    try:
        model.load_state_dict(copy.deepcopy(model.state_dict()))
        event, rows = watched.one()
    finally:
        watched.probe.close()
    assert model.calls == 1
    assert len(rows) == len(event.keys) == 4


def test_a_submodule_and_a_wrapper_are_the_attached_model(
    model: nn.Module, watched: Watched
) -> None:
    """A load into a part, or through a compiled wrapper, maps to the attached tensors."""
    model.get_submodule("2").load_state_dict({"weight": torch.ones(3, 80), "bias": torch.ones(3)})
    event, rows = watched.one()
    assert event.keys == ["weight", "bias"]
    assert event.live_keys == ["2.weight", "2.bias"]
    assert all(row["digest"] == row["live_digest"] for row in rows.values())
    wrapper = compiled(model)
    wrapper.load_state_dict(wrapper.state_dict())
    event, rows = watched.one()
    assert event.keys[0] == "_orig_mod.0.weight"
    assert event.live_keys[0] == "0.weight"
    assert len(rows) == len(event.keys)


def test_a_load_into_another_model_is_foreign(watched: Watched) -> None:
    """Its keys are reported, no numbers; a trainer that does it all the time is not followed for ever."""
    other = make(seed=4)
    for _ in range(40):
        other.load_state_dict(other.state_dict())
    events, rows = watched.taken()
    assert rows == []
    assert all(event.foreign and event.keys == list(other.state_dict()) for event in events)
    assert 1 <= len(events) < 40
    assert watched.probe.coverage()["passed_over"] + len(events) == 40
    assert watched.probe.coverage()["loads"] == 0


def test_dcp_load_into_live_tensors(model: nn.Module, watched: Watched, tmp_path: Path) -> None:
    """DCP fills the live tensors in place: one load event with the step's digests to follow."""
    saved = make(seed=5).state_dict()
    dcp.save({"model": saved}, checkpoint_id=tmp_path, no_dist=True)
    watched.taken()
    dcp.load({"model": model.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
    assert torch.equal(model.state_dict()["0.weight"], saved["0.weight"])
    event, rows = watched.one()
    assert (event.api, event.path) == ("torch.distributed.checkpoint.load", str(tmp_path))
    assert event.keys == [f"model.{key}" for key in saved]
    assert event.live_keys == list(saved)
    assert all(row["digest"] == row["live_digest"] for row in rows.values())


def test_dcp_load_into_other_tensors_is_foreign(watched: Watched, tmp_path: Path) -> None:
    """Equal names are not enough: an evaluation may load another model of the same class."""
    other = make(seed=6)
    dcp.save(other.state_dict(), checkpoint_id=tmp_path, no_dist=True)
    watched.taken()
    dcp.load(other.state_dict(), checkpoint_id=tmp_path, no_dist=True)
    event, rows = watched.one()
    assert event.foreign
    assert rows == {}


def test_safetensors_load_model(model: nn.Module, watched: Watched, tmp_path: Path) -> None:
    """It goes through load_state_dict: one event."""
    save_model(make(seed=7), str(tmp_path / "a.safetensors"))
    watched.taken()
    load_model(model, str(tmp_path / "a.safetensors"))
    event, rows = watched.one()
    assert event.op == "load"
    assert all(row["digest"] == row["live_digest"] for row in rows.values())


def test_digests_are_reported_before_the_step_after_a_load(
    model: nn.Sequential, watched: Watched
) -> None:
    """Weights that are wiped after the load show in the digests of the state that training goes on from."""
    model.load_state_dict(make(seed=8).state_dict())
    with torch.no_grad():
        model.get_parameter("0.weight").zero_()
    _, rows = watched.one()
    digests = watched.digests_before_step()
    assert set(digests["step"]) == {5}
    by_tensor = dict(zip(digests["tensor"].tolist(), digests["digest"].tolist(), strict=True))
    differs = {key for key, row in rows.items() if by_tensor[int(row["tensor"])] != row["digest"]}
    assert differs == {"0.weight"}
    assert len(by_tensor) == len(watched.slots)
    assert watched.digests_before_step() == {}


def test_a_load_before_attach_is_handed_over_at_attach() -> None:
    """Build, load, attach: the load is labelled with the step that the attempt starts from."""
    WATCH.hold()
    model = make(seed=9)
    state = make(seed=10).state_dict()
    del state["2.bias"]
    model.load_state_dict(state, strict=False)
    watched = Watched(nn.ModuleDict({"module": model}))
    again = Watched(model)
    try:
        event, rows = watched.one()
        assert again.taken() == ([], [])
    finally:
        watched.probe.close()
        again.probe.close()
        WATCH.release()
    assert (event.op, event.step, event.foreign) == ("load", 5, False)
    assert event.missing == ["2.bias"]
    assert event.live_keys == [f"module.{key}" for key in state]
    assert len(rows) == len(state)
    assert all(row["digest"] == row["live_digest"] for row in rows.values())


def test_a_load_that_was_reported_is_not_handed_over_again() -> None:
    """An agent that attaches later to the same model, when training has gone on, gets no old load."""
    model = make(seed=9)
    watched = Watched(model)
    model.load_state_dict(make(seed=10).state_dict())
    watched.probe.close()
    again = Watched(model)
    again.probe.close()
    assert len(watched.taken()[0]) == 1
    assert again.taken() == ([], [])


def test_a_load_read_under_another_name_keeps_only_what_was_read_whole() -> None:
    """Where cores are cut depends on the name: as a part named "encoder" a large tensor has no numbers."""
    WATCH.hold()
    model = make(seed=11)
    model.load_state_dict(make(seed=12).state_dict())
    watched = Watched(nn.ModuleDict({"encoder": model}))
    try:
        event, rows = watched.one()
    finally:
        watched.probe.close()
        WATCH.release()
    assert set(event.keys) - set(rows) == {"0.weight"}


def test_a_restarted_trainer_in_one_process_gets_its_load() -> None:
    """The load into the new model is foreign to the old agent, and handed to the new one."""
    old = Watched(make())
    model = make(seed=13)
    model.load_state_dict(make(seed=14).state_dict())
    event, _ = old.one()
    assert event.foreign
    old.probe.close()
    new = Watched(model)
    try:
        event, rows = new.one()
    finally:
        new.probe.close()
    assert not event.foreign
    assert len(rows) == len(event.keys)


def test_a_dcp_load_before_attach_is_found_by_where_it_went(tmp_path: Path) -> None:
    """DCP fills live tensors in place and names no module."""
    model = make(seed=15)
    dcp.save({"model": make(seed=16).state_dict()}, checkpoint_id=tmp_path, no_dist=True)
    WATCH.hold()
    dcp.load({"model": model.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
    watched = Watched(model)
    try:
        event, rows = watched.one()
    finally:
        watched.probe.close()
        WATCH.release()
    assert event.api == "torch.distributed.checkpoint.load"
    assert len(rows) == len(event.keys) == len(model.state_dict())


def test_the_journal_forgets_modules_that_are_gone() -> None:
    """A load keeps no module alive, and is dropped with it."""
    WATCH.hold()
    try:
        for seed in range(3):
            model = make(seed=seed)
            model.load_state_dict(model.state_dict())
        del model
        gc.collect()
        last = make()
        last.load_state_dict(last.state_dict())
        assert len(WATCH.journal) == 1
    finally:
        WATCH.release()


def test_compiled_blocks_rename_the_keys_of_the_dict_that_is_set(tmp_path: Path) -> None:
    """torchtitan #961: after set_model_state_dict on a cached dict, the next save has other raw keys."""
    model = make()
    model[0] = compiled(model[0])
    cached = get_model_state_dict(model)
    watched = Watched(model)
    try:
        torch.save({"model": cached}, tmp_path / "a.pt")
        first, _ = watched.one()
        set_model_state_dict(model, cached)
        load, _ = watched.one()
        torch.save({"model": cached}, tmp_path / "b.pt")
        second, rows = watched.one()
    finally:
        watched.probe.close()
    assert load.op == "load"
    assert "model.0.weight" in first.keys
    assert "model.0._orig_mod.weight" in second.keys
    assert sorted(first.tensors) == sorted(second.tensors)
    assert all(row["digest"] == row["live_digest"] for row in rows.values())
