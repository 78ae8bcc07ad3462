"""The watch touches nothing but what it lists, changes no byte and no exception, and gives everything back."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainvitals.awaited import AwaitedModules
from trainvitals.frame import CheckpointSeen
from trainvitals.patches import Patch
from trainvitals.probes.checkpoint import WATCH, Checkpoints
from trainvitals.probes.checkpoint.pace import Pace
from trainvitals.probes.checkpoint.targets import TARGETS
from trainvitals.record import Record
from trainvitals.slots import SlotTable

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


def originals() -> dict[str, Any]:
    """What every watched name refers to now."""
    found = {}
    for target in TARGETS:
        owner: Any = sys.modules[target.module]
        owner = getattr(owner, target.owner) if target.owner else owner
        found[target.label] = vars(owner).get(target.name)
    return found


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))


def probe_of(model: nn.Module, record: Record | None = None) -> Checkpoints:
    """A started probe."""
    probe = Checkpoints(SlotTable([model]), record or Record(1 << 24), lambda: 0)
    probe.start()
    return probe


@pytest.fixture
def record() -> Record:
    return Record(1 << 24)


@pytest.fixture
def probe(model: nn.Module, record: Record) -> Iterator[Checkpoints]:
    probe = probe_of(model, record)
    yield probe
    probe.close()


def events_of(record: Record) -> list[CheckpointSeen]:
    """The checkpoint events since the last time."""
    return [event for event in record.take()[1] if isinstance(event, CheckpointSeen)]


def test_close_restores_every_name_identically(model: nn.Module) -> None:
    """What was patched is on the list while it is, and the very same object afterwards."""
    before = originals()
    probe = probe_of(model)
    during = originals()
    changed = {label for label, function in before.items() if during[label] is not function}
    assert changed == set(probe.touched()) - {"sys.meta_path"}
    assert "torch.serialization._save" in changed
    assert "torch.nn.modules.module.Module.load_state_dict" in changed
    assert "torch.distributed.checkpoint.state_dict_saver._save_state_dict" in changed
    assert "safetensors.torch.serialize_file" in changed
    probe.close()
    probe.close()
    assert originals() == before
    assert probe.touched() == WATCH.touched() == []


def test_every_api_of_the_installed_versions_is_there(probe: Checkpoints) -> None:
    """Nothing is absent with the versions this is tested with, or coverage would say so."""
    assert probe.coverage()["absent"] == []
    assert probe.coverage()["awaited"] == []


def test_the_watch_counts_its_holders(model: nn.Module) -> None:
    """It stays until the last one lets go, agents and launcher alike."""
    before = originals()
    WATCH.hold()
    probe = probe_of(model)
    other = probe_of(nn.Linear(2, 2))
    probe.close()
    assert originals() != before
    other.close()
    assert originals() != before
    WATCH.release()
    assert originals() == before


def test_a_patch_below_somebody_elses_passes_through(model: nn.Module, record: Record) -> None:
    """When another library has patched on top, its chain is left whole, and ours is silent."""
    original = torch.serialization._save
    probe = probe_of(model, record)
    ours = torch.serialization._save
    calls = []

    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return ours(*args, **kwargs)

    torch.serialization._save = theirs
    try:
        probe.close()
        assert torch.serialization._save is theirs
        torch.save(model.state_dict(), io.BytesIO())
        assert len(calls) == 1
        assert events_of(record) == []
        again = probe_of(model, record)
        torch.save(model.state_dict(), io.BytesIO())
        assert len(events_of(record)) == 1
        again.close()
        assert torch.serialization._save is theirs
    finally:
        torch.serialization._save = original


@pytest.mark.parametrize("legacy", [False, True])
def test_files_are_the_same_to_the_byte(legacy: bool, model: nn.Module, tmp_path: Path) -> None:
    """torch.save and safetensors write what they write without us."""

    def write(folder: Path) -> list[bytes]:
        folder.mkdir()
        content = {"model": model.state_dict(), "epoch": 3}
        torch.save(content, folder / "a.pt", _use_new_zipfile_serialization=not legacy)
        safetensors.torch.save_file(model.state_dict(), folder / "a.safetensors")
        in_memory = io.BytesIO()
        torch.save(content, in_memory)
        packed = safetensors.torch.save(dict(model.state_dict()))
        files = [(folder / name).read_bytes() for name in ("a.pt", "a.safetensors")]
        return [*files, in_memory.getvalue(), packed]

    without = write(tmp_path / "without")
    probe = probe_of(model)
    try:
        assert write(tmp_path / "with") == without
    finally:
        probe.close()


def test_dcp_files_and_results_are_the_same(model: nn.Module, tmp_path: Path) -> None:
    """DCP's data file is the same to the byte; what save returns is passed on."""
    dcp.save(model.state_dict(), checkpoint_id=tmp_path / "a", no_dist=True)
    probe = probe_of(model)
    try:
        metadata = dcp.save(model.state_dict(), checkpoint_id=tmp_path / "b", no_dist=True)
        future = dcp.async_save(model.state_dict(), checkpoint_id=tmp_path / "c", no_dist=True)
        assert isinstance(future, Future)
        assert type(future.result()) is type(metadata)
    finally:
        probe.close()
    assert set(metadata.state_dict_metadata) == set(model.state_dict())
    data = [next((tmp_path / name).glob("*.distcp")).read_bytes() for name in "abc"]
    assert data[0] == data[1] == data[2]


def test_random_numbers_and_tensors_are_left_alone(
    model: nn.Module, probe: Checkpoints, tmp_path: Path
) -> None:
    """No generator moves, no version counter, no gradient, no element."""
    state = model.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    versions = [p._version for p in model.parameters()]
    rng = torch.get_rng_state()
    torch.save(state, tmp_path / "a.pt")
    dcp.save(state, checkpoint_id=tmp_path / "b", no_dist=True)
    assert torch.equal(torch.get_rng_state(), rng)
    assert [p._version for p in model.parameters()] == versions
    assert all(torch.equal(value, before[key]) for key, value in state.items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class Unpicklable:
    """Raises when it is pickled."""

    def __reduce__(self) -> Any:
        raise OSError("not me")


def test_exceptions_of_a_save_pass_and_are_marked(
    model: nn.Module, probe: Checkpoints, record: Record, tmp_path: Path
) -> None:
    """The trainer's own error arrives as it was raised; the event says that the call failed."""
    with pytest.raises(OSError, match="not me"):
        torch.save({"model": model.state_dict(), "other": Unpicklable()}, tmp_path / "a.pt")
    with pytest.raises(OSError, match="not me"):
        torch.save(
            {"model": model.state_dict(), "other": Unpicklable()},
            tmp_path / "b.pt",
            _use_new_zipfile_serialization=False,
        )
    assert [event.failed for event in events_of(record)] == [True, True]
    torch.save(model.state_dict(), tmp_path / "c.pt")
    assert [event.failed for event in events_of(record)] == [False]


def test_unwritable_paths_raise_as_they_did(
    model: nn.Module, probe: Checkpoints, tmp_path: Path
) -> None:
    """Each saver's own error."""
    missing = tmp_path / "no" / "such" / "folder"
    with pytest.raises(RuntimeError, match="Parent directory"):
        torch.save(model.state_dict(), missing / "a.pt")
    with pytest.raises(safetensors.SafetensorError):
        safetensors.torch.save_file(model.state_dict(), missing / "a.safetensors")
    with pytest.raises(ValueError, match="non contiguous"):
        safetensors.torch.save_file({"a": torch.ones(2, 3).t()}, tmp_path / "a.safetensors")
    with pytest.raises(TypeError, match="dict-like"):
        model.load_state_dict([1, 2])  # type: ignore[arg-type]


def test_a_fault_of_ours_is_reported_and_the_save_goes_on(model: nn.Module, tmp_path: Path) -> None:
    """What raises inside the probe goes to the guard; without one the watch drops the probe."""
    faults: list[tuple[str, IndexError]] = []

    def guarded(part: str, function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except IndexError as error:
            faults.append((part, error))
            return None

    now = [0]
    for guard in (guarded, None):
        probe = Checkpoints(SlotTable([model]), Record(1 << 20), lambda: now[0])
        probe.guarded = guard or probe.guarded
        probe.start()
        now.clear()  # from here on, asking for the step raises an IndexError
        torch.save(model.state_dict(), tmp_path / "a.pt")
        model.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
        now.append(0)
        probe.close()
    assert [part for part, _ in faults] == ["checkpoint", "checkpoint"]


def test_only_torch_save_is_seen_once_inside_others(
    model: nn.Module, probe: Checkpoints, record: Record, tmp_path: Path
) -> None:
    """DCP calls torch.save for every tensor, with and without threads: one call, one event."""
    writer = dcp.FileSystemWriter(tmp_path / "a", thread_count=2)
    dcp.save({"model": model.state_dict()}, storage_writer=writer, no_dist=True)
    future = dcp.async_save(
        {"model": model.state_dict()}, checkpoint_id=tmp_path / "b", no_dist=True
    )
    assert isinstance(future, Future)
    future.result()
    apis = [event.api for event in events_of(record)]
    assert apis == ["torch.distributed.checkpoint.save", "torch.distributed.checkpoint.async_save"]


def test_names_bound_at_import_are_watched(
    model: nn.Module, record: Record, tmp_path: Path
) -> None:
    """A library that imported save_file before us still goes through the patched name."""
    from safetensors.torch import save_file
    from torch import save

    probe = probe_of(model, record)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    save(model.state_dict(), tmp_path / "a.pt")
    probe.close()
    assert [event.api for event in events_of(record)] == [
        "safetensors.torch.save_file",
        "torch.save",
    ]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_is_silent(model: nn.Module, probe: Checkpoints, record: Record) -> None:
    """A DataLoader worker's saves are its own."""
    child = os.fork()
    if child == 0:
        torch.save(model.state_dict(), io.BytesIO())
        os._exit(len(events_of(record)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Counting(TorchDispatchMode):
    """Sees every operation, as FLOP counters and fake tensors do."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_under_a_dispatch_mode(model: nn.Module, record: Record) -> None:
    """A FLOP counter counts none of ours, and fake tensors have no elements: keys only."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    state = model.state_dict()
    counted = []
    for attached in (False, True):
        probe = Checkpoints(SlotTable([model]), record, lambda: 0)
        if attached:
            probe.start()
        with Counting() as counting:
            torch.save(state, io.BytesIO())
        with FakeTensorMode(allow_non_fake_inputs=True):
            torch.save(state, io.BytesIO())
        probe.close()
        counted.append([name for name in counting.operations if "detach" not in name])
    tables, events, _ = record.take()
    assert counted[0] == counted[1]
    assert len(events) == 2
    assert "manifest" not in tables


def test_patched_functions_keep_their_names_and_signatures(probe: Checkpoints) -> None:
    """Libraries that ask for a signature get the original's."""
    import inspect

    assert list(inspect.signature(nn.Linear(1, 1).load_state_dict).parameters) == [
        "state_dict",
        "strict",
        "assign",
    ]
    assert torch.serialization._save.__name__ == "_save"


def test_a_patch_wraps_what_it_found_and_gives_it_back() -> None:
    """The mechanics, on a class of our own."""

    class Owner:
        def twice(self, number: int) -> int:
            return 2 * number

    original = vars(Owner)["twice"]
    patch = Patch(Owner, "twice", "Owner.twice", lambda f, a, k: f(*a, **k) + 1)
    assert Owner().twice(4) == 9
    patch.restore()
    assert vars(Owner)["twice"] is original
    below = Patch(Owner, "twice", "Owner.twice", lambda f, a, k: f(*a, **k) + 1)
    above = Patch(Owner, "twice", "Owner.twice", lambda f, a, k: f(*a, **k) + 10)
    below.restore()
    assert Owner().twice(4) == 18
    above.restore()
    assert Owner().twice(4) == 8


def test_awaited_modules_are_told_and_the_loader_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import goes as always; we hear of it when the module is complete."""
    (tmp_path / "made_up_library.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[int] = []

    def imported(name: str) -> None:
        seen.append(sys.modules[name].VALUE)

    awaited = AwaitedModules(["made_up_library"], imported)
    other = AwaitedModules(["made_up_library"], imported)
    try:
        module: ModuleType = importlib.import_module("made_up_library")
        assert awaited not in sys.meta_path
    finally:
        awaited.stop()
        other.stop()
    assert seen == [3, 3]
    assert module.__spec__ is not None
    assert "exec_module" not in vars(module.__spec__.loader)
    del sys.modules["made_up_library"]


def test_pace_lets_a_few_pass_and_then_a_share_of_time() -> None:
    """Free ones first; then one, when twenty times its cost has gone by."""
    now = [0.0]
    pace = Pace(2, clock=lambda: now[0])

    def read() -> bool:
        due = pace.is_due()
        if due:
            with pace:
                now[0] += 1.0
        return due

    assert [read() for _ in range(4)] == [True, True, False, False]
    now[0] += 20.0
    assert [read() for _ in range(2)] == [True, False]
