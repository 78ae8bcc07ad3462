"""
The agent's public face: attach, its refusals, its life, and what it leaves behind.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import trainvitals
from trainvitals.facts import BACKWARD_CALLS, BACKWARD_SCALAR
from trainvitals.frame import decode
from trainvitals.settings import SETTING_BY_NAME


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    """Some training steps."""
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()


def frames(folder: Path) -> list[tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]]:
    """All frames under a folder, in the order they were written."""
    return [decode(path.read_bytes()) for path in sorted(folder.rglob("*.safetensors"))]


def column(folder: Path, table: str, name: str) -> list[float]:
    """A column of one table through all frames."""
    return [
        value for _, tables in frames(folder) if table in tables for value in tables[table][name]
    ]


def logged(folder: Path, name: str) -> list[float]:
    """A column of the scalars that the trainer logged; the agent's own are another test's."""
    return [
        value
        for header, tables in frames(folder)
        if "scalars" in tables
        for value, index in zip(tables["scalars"][name], tables["scalars"]["scalar"], strict=True)
        if header["scalars"][index] not in (BACKWARD_SCALAR, BACKWARD_CALLS)
    ]


@pytest.fixture
def model() -> nn.Module:
    """A small model."""
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


@pytest.fixture
def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Its optimizer."""
    return torch.optim.SGD(model.parameters(), lr=0.01)


def test_each_step_is_in_the_frames(
    model: nn.Module, optimizer: torch.optim.Optimizer, tmp_path: Path
) -> None:
    """Frames in the folder hold one row a step, the loss, and every tensor's values at every step."""
    with trainvitals.attach(
        model, optimizer, monitor=str(tmp_path), budget=None, quiet=True
    ) as agent:
        for i in range(5):
            steps(model, optimizer, 1)
            agent.log(step=i, loss=torch.tensor(float(i)))
    assert column(tmp_path, "steps", "step") == [1, 2, 3, 4, 5]
    assert logged(tmp_path, "value") == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len(column(tmp_path, "values", "norm")) == 5 * 4
    header = frames(tmp_path)[-1][0]
    assert header["phase"] == "closed"
    assert header["complete_through"] == 5
    assert header["step_offset"] == -1


def test_the_optimizer_is_found_at_the_first_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, tmp_path: Path
) -> None:
    """Without an optimizer given, the one that holds the model's parameters is the clock; others are not."""
    other = nn.Linear(4, 4)
    foreign = torch.optim.SGD(other.parameters(), lr=0.01)
    with trainvitals.attach(model, monitor=str(tmp_path), budget=None, quiet=True) as agent:
        steps(other, foreign, 2)
        steps(model, optimizer, 3)
        assert agent.coverage()["steps"] == 3


@pytest.mark.parametrize("is_anew", [True, False], ids=["new optimizer", "old optimizer"])
def test_steps_are_heard_when_every_parameter_was_replaced(
    model: nn.Module, optimizer: torch.optim.Optimizer, tmp_path: Path, is_anew: bool
) -> None:
    """A new optimizer over the new parameters is heard, and so is the old one, which moves nothing any more."""
    with trainvitals.attach(
        model, optimizer, monitor=str(tmp_path), budget=None, quiet=True
    ) as agent:
        steps(model, optimizer, 2)
        copies = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(copies, assign=True)
        steps(model, torch.optim.SGD(model.parameters(), lr=0.01) if is_anew else optimizer, 3)
        agent.flush()
        # A new optimizer's first step is taken for a part of the round before it.
        assert agent.coverage()["steps"] == (4 if is_anew else 5)


def test_a_given_optimizer_is_heard_whatever_it_holds(model: nn.Module, tmp_path: Path) -> None:
    """One that was made for parameters which the model has no longer is the fault, and no reason to be deaf."""
    stale = torch.optim.SGD(nn.Linear(4, 4).parameters(), lr=0.01)
    with trainvitals.attach(model, stale, monitor=str(tmp_path), quiet=True) as agent:
        steps(model, stale, 3)
        assert agent.coverage()["steps"] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"model": nn.ReLU()}, "no parameters"),
        ({"model": nn.Linear(2, 2, device="meta")}, "meta device"),
        ({"model": nn.LazyLinear(2)}, "run one forward pass"),
        ({"model": "net"}, "torch's Module"),
        ({"model": nn.Linear(2, 2), "optimizer": 3}, "torch's Optimizer"),
        ({"model": nn.Linear(2, 2), "step": -1}, "step=-1"),
        ({"model": nn.Linear(2, 2), "budget": 2}, "budget=2"),
        ({"model": nn.Linear(2, 2), "bugdet": 2}, "no setting 'bugdet'"),
        ({"model": nn.Linear(2, 2), "monitor": "ftp://host"}, "ftp://host"),
        ({"model": nn.Linear(2, 2), "on_finding": "shout"}, "shout"),
        ({"model": nn.Linear(2, 2), "on_finding": "raise"}, "nobody judges"),
        ({"model": nn.Linear(2, 2), "contract": {}}, "trainvitals.Contract"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_wrong_arguments_fail_at_once(
    arguments: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong argument is a ValueError before the first step, whose text names it and says what to do."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says):
        trainvitals.attach(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_template_may_be_on_the_meta_device(model: nn.Module, tmp_path: Path) -> None:
    """torch.func runs such a module over stacked parameters; all that is trained is real."""
    template = nn.Linear(4, 4, device="meta").requires_grad_(False)
    both = nn.ModuleDict({"model": model, "template": template})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with trainvitals.attach(both, optimizer, monitor=str(tmp_path), quiet=True) as agent:
        steps(model, optimizer, 3)
        assert agent.coverage()["steps"] == 3


def test_attaching_twice_is_refused(model: nn.Module, tmp_path: Path) -> None:
    """A second agent on one model is refused while the first is open, and welcome afterwards."""
    first = trainvitals.attach(model, monitor=str(tmp_path), quiet=True)
    with pytest.raises(ValueError, match="attached to this model already"):
        trainvitals.attach(model, monitor=str(tmp_path), quiet=True)
    first.close()
    trainvitals.attach(model, monitor=str(tmp_path), quiet=True).close()


def test_closing_restores_everything(
    model: nn.Module, optimizer: torch.optim.Optimizer, tmp_path: Path
) -> None:
    """What touched() lists is gone after close(), which may be called again; torch is as it was."""
    save, load = torch.save, nn.Module.load_state_dict
    inner_save = torch.serialization._save
    agent = trainvitals.attach(model, optimizer, monitor=str(tmp_path), quiet=True)
    assert agent.touched()
    steps(model, optimizer, 2)
    agent.close()
    agent.close()
    assert agent.touched() == []
    assert torch.save is save
    assert nn.Module.load_state_dict is load
    assert torch.serialization._save is inner_save
    steps(model, optimizer, 1)
    assert agent.coverage()["steps"] == 2


def test_a_failing_probe_is_switched_off(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A probe that raises is reported once and switched off; training and the other probes go on."""
    from trainvitals.probes import gradients

    def broken(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gradients.Gradients, "before_step", broken)
    with trainvitals.attach(model, optimizer, monitor=str(tmp_path), budget=None) as agent:
        steps(model, optimizer, 4)
        assert list(agent.coverage()["switched_off"].values()) == ["RuntimeError: no such kernel"]
    assert len([record for record in caplog.records if record.exc_info]) == 1
    events = [event for header, _ in frames(tmp_path) for event in header["events"]]
    assert [event["error"] for event in events if event["kind"] == "probe-failed"] == [
        "RuntimeError: no such kernel"
    ]
    assert len(column(tmp_path, "values", "norm")) == 4 * 4


class Unreadable(torch.optim.SGD):
    """An optimizer whose groups can't be asked for what the agent wants to know."""

    broken = ""

    def __getattribute__(self, name: str) -> Any:
        if name == "chained_optimizers" and super().__getattribute__("broken") == "inner":
            raise RuntimeError("not now")
        return super().__getattribute__(name)


@pytest.mark.parametrize("broken", ["inner", "rate"])
def test_an_optimizer_that_can_not_be_asked_is_ignored(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    """Its steps are passed over, said once and counted; the others' are seen as before."""

    class Rate(float):
        def __float__(self) -> float:
            raise RuntimeError("no rate yet")

    strange = Unreadable(model.parameters(), lr=0.01)
    with trainvitals.attach(model, monitor=str(tmp_path), budget=None) as agent:
        steps(model, optimizer, 1)
        strange.broken = broken
        if broken == "rate":
            strange.param_groups[0]["lr"] = Rate(0.01)
        for _ in range(2):
            steps(model, strange, 1)
            steps(model, optimizer, 1)
        assert agent.coverage()["steps"] == 3
        assert agent.coverage()["switched_off"] == {}
        assert agent.coverage()["failures"] == {"optimizer": 2}
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_what_cannot_be_read_is_not_covered(
    model: nn.Module, optimizer: torch.optim.Optimizer, tmp_path: Path
) -> None:
    """A sparse buffer has its slot and its turns, but nobody has seen its elements."""
    model.register_buffer("mask", torch.eye(3).to_sparse())
    with trainvitals.attach(model, optimizer, monitor=str(tmp_path), quiet=True) as agent:
        steps(model, optimizer, 2)
    coverage = agent.coverage()
    assert (coverage["tensors"], coverage["tensors_seen"], coverage["tensors_exact"]) == (5, 4, 4)


@pytest.mark.parametrize(
    "reply",
    [{"findings": None}, {"findings": [1]}, {"findings": [{"id": "a"}, {"id": [1]}]}, {"page": 3}],
)
def test_a_strange_reply_reaches_nobody(
    model: nn.Module, optimizer: torch.optim.Optimizer, tmp_path: Path, reply: dict[str, Any]
) -> None:
    """What another version of the monitor may answer ends neither the training nor the agent."""
    with trainvitals.attach(model, optimizer, monitor=str(tmp_path)) as agent:
        agent._answers.take(reply)
        steps(model, optimizer, 2)
        agent.flush()
        assert agent.findings == []
    assert agent.coverage()["switched_off"] == {}


def test_what_is_no_number_is_not_logged_and_raises_nothing(
    model: nn.Module, optimizer: torch.optim.Optimizer, tmp_path: Path
) -> None:
    """One bad scalar or step costs itself, not the loss; None is no news."""
    with trainvitals.attach(model, optimizer, monitor=str(tmp_path), quiet=True) as agent:
        for i in range(3):
            steps(model, optimizer, 1)
            bad: Any = "five"
            agent.log(step=bad, note="warm-up", accuracy=0.5 if i == 2 else None, loss=float(i))
    assert logged(tmp_path, "step") == [1, 2, 3, 3]
    assert logged(tmp_path, "value") == [0.0, 1.0, 2.0, 0.5]
    assert set(agent.coverage()["switched_off"]) == {"log(note=)"}
    assert agent.coverage()["failures"] == {"log(step=)": 3}


@pytest.mark.parametrize("nonsense", [2**53, -(2**53), 10**400, 1.5, float("nan"), "7", [7]])
def test_a_step_that_can_not_be_meant_is_passed_over(
    model: nn.Module, optimizer: torch.optim.Optimizer, tmp_path: Path, nonsense: Any
) -> None:
    """It reaches no frame and ends nothing: the next good number is taken."""
    with trainvitals.attach(model, optimizer, monitor=str(tmp_path), quiet=True) as agent:
        steps(model, optimizer, 1)
        agent.log(step=nonsense, loss=1.0)
        assert agent.flush()
        steps(model, optimizer, 1)
        agent.log(step=np.int64(12), loss=2.0)
    assert next(header["step_offset"] for header, _ in frames(tmp_path)) is None
    assert frames(tmp_path)[-1][0]["step_offset"] == 10
    assert logged(tmp_path, "value") == [1.0, 2.0]
    assert agent.coverage()["switched_off"] == {}


def test_a_log_in_a_round_is_about_the_step_being_made(model: nn.Module, tmp_path: Path) -> None:
    """A critic that steps alone for a while: its losses have the step's number, and so has the trainer's own."""
    critic, generator = (torch.optim.SGD(part.parameters(), lr=0.01) for part in model.children())
    with trainvitals.attach(
        model, [critic, generator], monitor=str(tmp_path), budget=None, quiet=True
    ) as agent:
        for i in range(1, 7):
            steps(model, critic, 1)
            agent.log(step=i, loss=float(i))
            assert agent._progress.offset == 0
            if i % 3 == 0:
                generator.step()
    assert logged(tmp_path, "step") == [1, 2, 3, 4, 5, 6]
    assert column(tmp_path, "steps", "step") == [1, 2, 3, 4, 5, 6]


def test_a_loop_without_an_optimizer_calls_step(model: nn.Module, tmp_path: Path) -> None:
    """agent.step() is the clock of a trainer that updates its parameters by hand."""
    with trainvitals.attach(model, monitor=str(tmp_path), budget=None, quiet=True) as agent:
        for _ in range(3):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01)
            agent.step()
        assert agent.coverage()["steps"] == 3
    assert column(tmp_path, "updates", "changed")[-1] > 0


def test_what_it_says(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line at attach says what was found and where facts go; one at the end what was never seen."""
    with trainvitals.attach(model, optimizer, run="mine", monitor=str(tmp_path)):
        steps(model, optimizer, 2)
    lines = caplog.messages
    assert len(lines) == 2
    assert "run mine" in lines[0]
    assert "Sequential, 4 tensors" in lines[0]
    assert "SGD" in lines[0]
    assert str(tmp_path) in lines[0]
    assert "2 steps, 4 of 4 tensors looked at" in lines[1]
    assert "never seen: a save, a resume (a load)" in lines[1]


def test_a_run_goes_on_counting(
    model: nn.Module, optimizer: torch.optim.Optimizer, tmp_path: Path
) -> None:
    """A second attach under the same name in one process continues the step count, as another attempt."""
    for _ in range(2):
        with trainvitals.attach(model, optimizer, run="twice", monitor=str(tmp_path), quiet=True):
            steps(model, optimizer, 3)
    assert sorted(column(tmp_path, "steps", "step")) == [1, 2, 3, 4, 5, 6]
    assert len({header["attempt"] for header, _ in frames(tmp_path)}) == 2


@pytest.mark.parametrize("module", ["trainvitals", "trainvitals.frame", "trainvitals.settings"])
def test_reading_frames_needs_no_torch(module: str) -> None:
    """The torch-free parts import no torch; the package itself not even numpy."""
    code = f"import sys, {module}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"
    if module == "trainvitals":
        assert done.stdout.split()[1] == "False"


def test_every_setting_is_an_argument(model: nn.Module, tmp_path: Path) -> None:
    """Settings that settings.py lists are those that attach takes, with the environment below arguments."""
    agent = trainvitals.attach(model, monitor=str(tmp_path), quiet=True, interval_s=0.5)
    assert set(vars(agent.settings)) == set(SETTING_BY_NAME)
    assert agent.settings.interval_s == 0.5
    agent.close()
