"""
How long an agent lives: as long as somebody holds the model, and no longer; and what happens where it can't begin.
"""

from __future__ import annotations

import errno
import gc
import io
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

import trainvitals
from trainvitals.attached import ATTACHED
from trainvitals.clock import Clock
from trainvitals.frame import decode
from trainvitals.probes.checkpoint import WATCH
from trainvitals.probes.probe import Probe
from trainvitals.slots import SlotTable
from trainvitals.swaps import SWAPS


@pytest.fixture(autouse=True)
def _nothing_left() -> Any:
    """No agent of another test is open, and none of ours stays."""
    gc.collect()
    ATTACHED.clear_out()
    yield
    gc.collect()
    ATTACHED.clear_out()
    assert ATTACHED.agents == []
    assert [*SWAPS.touched(), *WATCH.touched()] == []


def train(model: nn.Module, *, count: int = 2) -> torch.optim.Optimizer:
    """Some steps with Adam, which keeps a state."""
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
    return optimizer


def trial(folder: Path, **settings: Any) -> list[weakref.ref[Any]]:
    """A trial of a sweep that closes nothing: its model, optimizer and a parameter, for those who ask later."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    optimizer = torch.optim.Adam(model.parameters())
    trainvitals.attach(model, optimizer, monitor=str(folder), quiet=True, budget=None, **settings)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
    return [weakref.ref(model), weakref.ref(optimizer), weakref.ref(model[0].weight)]


def senders() -> int:
    """Threads of ours."""
    return sum(thread.name.startswith("trainvitals") for thread in threading.enumerate())


def soon(holds: Callable[[], bool]) -> bool:
    """Whether it holds within some seconds."""
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def phases(folder: Path) -> list[str]:
    """The phase of each frame."""
    return [decode(path.read_bytes())[0]["phase"] for path in sorted(folder.rglob("*.safetensors"))]


def test_trials_that_close_nothing_leave_nothing(tmp_path: Path) -> None:
    """Each attach closes the agents before it whose models are gone; their frames have arrived."""
    hooks = len(torch_optimizer._global_optimizer_pre_hooks)
    before = senders()
    references = []
    for number in range(5):
        references += trial(tmp_path / str(number), run=f"fold{number}")
        gc.collect()
    ATTACHED.clear_out()
    assert [reference() for reference in references] == [None] * len(references)
    assert soon(lambda: senders() == before)
    assert len(torch_optimizer._global_optimizer_pre_hooks) == hooks
    assert [phases(tmp_path / str(number))[-1] for number in range(5)] == ["closed"] * 5


def test_an_abandoned_agent_closes_itself(tmp_path: Path) -> None:
    """Nobody attaches again: frames, threads, patches and memory go by themselves, torch's hooks with the next one."""
    hooks = len(torch_optimizer._global_optimizer_pre_hooks)
    before = senders()
    references = trial(tmp_path)
    gc.collect()
    assert soon(lambda: senders() == before and not ATTACHED.agents)
    assert [reference() for reference in references] == [None] * len(references)
    assert phases(tmp_path)[-1] == "closed"
    train(nn.Linear(4, 4))
    model = nn.Linear(4, 4)
    trainvitals.attach(model, monitor=str(tmp_path), quiet=True).close()
    assert len(torch_optimizer._global_optimizer_pre_hooks) == hooks


def test_an_abandoned_agent_raises_at_nobody(tmp_path: Path) -> None:
    """It ends a round that was still waiting, with a finding to be raised, and closes all the same."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    pair = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]
    agent = trainvitals.attach(model, pair, monitor=str(tmp_path), quiet=True, budget=None)
    words = dict.fromkeys(("id", "detector", "severity", "message", "advice"), "critical")
    agent._answers._on_finding = "raise"
    agent._answers.take({"findings": [words]})
    model(torch.ones(2, 4)).sum().backward()
    pair[0].step()
    del model, pair
    gc.collect()
    assert soon(lambda: agent._attachment not in ATTACHED.agents)
    assert soon(lambda: phases(tmp_path)[-1:] == ["closed"])
    assert agent.coverage()["steps"] == 1


def test_an_agent_that_is_held_holds_no_model(tmp_path: Path) -> None:
    """The agent outlives the model: its methods work, and it says what was covered."""
    model = nn.Linear(4, 4)
    agent = trainvitals.attach(model, monitor=str(tmp_path), quiet=True, budget=None)
    train(model)
    reference, parameter = weakref.ref(model), weakref.ref(model.weight)
    del model
    gc.collect()
    assert reference() is None
    agent.close()
    gc.collect()
    assert parameter() is None
    assert agent.coverage()["tensors_seen"] == 2
    agent.log(loss=1.0)
    assert not agent.flush()


def test_a_container_made_for_the_call_may_go(tmp_path: Path) -> None:
    """Its modules are watched under their names in it, until the last of them is gone."""
    first, second = nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4)
    agent = trainvitals.attach(
        nn.ModuleList([first, second]), monitor=str(tmp_path), quiet=True, budget=None
    )
    gc.collect()
    train(nn.Sequential(first, second))
    names = [agent._slots.fqn(index) for index in range(4)]
    assert names == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]
    assert agent.coverage()["tensors_seen"] == 4
    first[0] = nn.Linear(4, 4)
    assert {event.tensor for event in agent._slots.walk()} == {0, 1}
    del first
    gc.collect()
    assert not agent._slots.is_abandoned()
    assert agent._slots.walk() == []
    del second
    gc.collect()
    assert soon(lambda: agent._attachment not in ATTACHED.agents)


def test_the_tables_of_a_dropped_module_tell_so() -> None:
    """A module that was taken out of a living model is lost, whoever holds it."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    table = SlotTable([model])
    del model[1]
    gc.collect()
    assert [event.changes for event in table.walk()] == [["lost"], ["lost"]]


def broken(*_: Any, **__: Any) -> None:
    """A bug of ours."""
    raise RuntimeError("our own bug")


@pytest.mark.parametrize(
    "part", [(SlotTable, "__init__"), (Clock, "__init__"), (Clock, "start")], ids=str
)
def test_a_bug_of_ours_in_attach_ends_no_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    part: tuple[type[Any], str],
) -> None:
    """It is said once; the agent that comes back does nothing, and nothing stays behind."""
    hooks = len(torch_optimizer._global_optimizer_pre_hooks)
    model = nn.Linear(4, 4)
    with monkeypatch.context() as patched:
        patched.setattr(*part, broken)
        agent = trainvitals.attach(model, monitor=str(tmp_path), quiet=True)
    train(model)
    with agent:
        agent.log(step=1, loss=1.0)
        agent.step()
        assert agent.coverage()["switched_off"] == {"attach": "RuntimeError: our own bug"}
        assert (agent.findings, agent.flush(), agent.touched(), str(agent.plan())) == (
            [],
            False,
            [],
            "no look was taken",
        )
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert len(torch_optimizer._global_optimizer_pre_hooks) == hooks
    assert not ATTACHED.has(model)


def test_what_can_t_be_summed_up_ends_no_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The coverage is said at close, which a trainer may call on its way out of an exception of its own."""
    model = nn.Linear(4, 4)
    agent = trainvitals.attach(model, monitor=str(tmp_path))
    train(model)
    monkeypatch.setattr(SlotTable, "readable", broken)
    monkeypatch.setattr(Probe, "limits", broken)
    assert agent.coverage()["switched_off"].keys() >= {"coverage", "limits"}
    agent.close()
    assert agent.coverage()["tensors"] == 0
    assert "0 of 0 tensors looked at" in caplog.messages[-1]


class Full(io.StringIO):
    """A stderr with a full disk behind it."""

    def write(self, _text: str, /) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def closed() -> io.StringIO:
    """One whose terminal is gone."""
    gone = io.StringIO()
    gone.close()
    return gone


@pytest.mark.parametrize("stderr", [Full(), closed(), None])
def test_a_stderr_that_takes_nothing_ends_no_training(
    stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A daemon has none at all. Where no logging is set up nobody is told, and all is watched."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "stderr", stderr)
    model = nn.Linear(4, 4)
    with trainvitals.attach(model, monitor=str(tmp_path)) as agent:
        train(model)
    assert agent.coverage()["steps"] == 2


def test_every_public_method_of_an_agent_is_silenced() -> None:
    """The agent that does nothing has an answer of its own for each public method."""
    from trainvitals.agent import Agent
    from trainvitals.inert import InertAgent

    inner = {"start"}
    public = {name for name in vars(Agent) if not name.startswith("_")} - inner
    assert public <= set(vars(InertAgent))


def test_a_forked_child_may_attach_by_itself(tmp_path: Path) -> None:
    """The parent's agent is silent in the child, and in nobody's way; it says nothing at the child's end."""
    code = f"""
import os, sys, torch, trainvitals
model = torch.nn.Linear(4, 4)
agent = trainvitals.attach(model, monitor={str(tmp_path / "parent")!r})
child = os.fork()
if not child:
    mine = trainvitals.attach(model, monitor={str(tmp_path / "child")!r}, quiet=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    mine.close()
    sys.exit(mine.coverage()["steps"] != 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("0 steps") == 1, done.stderr
    assert phases(tmp_path / "child")[-1] == "closed"
