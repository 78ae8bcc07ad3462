"""
Rounds in which nobody looks: what is counted goes on, and no step is left untold.
"""

from __future__ import annotations

import gc
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trainvitals
from trainvitals import rounds
from trainvitals.budget import Budget
from trainvitals.frame import decode
from trainvitals.probes.probe import Choice
from trainvitals.rests import IN_A_ROW, MAX_RESTS, Rests
from trainvitals.slots import SlotTable

STEPS = 60


def resting(step: int) -> bool:
    """The steps of this file's budget at which nobody looks: after the tenth, all but two of ten."""
    return step >= 10 and step % 10 > 1


@pytest.fixture(autouse=True, params=["one by one", "as stretches"])
def _rests(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    def choose(budget: Budget, step: int, slots: SlotTable) -> Choice | None:
        budget._learn_slots(slots)
        return None if resting(step) else budget._everything(step, slots)

    def rests_ahead(budget: Budget, step: int, slots: SlotTable) -> int:
        ahead = itertools.takewhile(resting, itertools.count(step))
        return sum(1 for _ in itertools.islice(ahead, 3))

    monkeypatch.setattr(Budget, "choose", choose)
    if request.param == "as stretches":
        monkeypatch.setattr(Budget, "rests_ahead", rests_ahead)


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What an agent told of a training with rests, all frames joined."""
    return train(tmp_path)


def train(folder: Path) -> dict[str, dict[str, Any]]:
    """Two optimizers, one of which steps at every other step, and a schedule: what was told."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    player = torch.optim.Adam(model[0].parameters(), lr=1e-2)
    other = torch.optim.SGD([*model[1].parameters(), *model[2].parameters()], lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(player, 0.9)
    with trainvitals.attach(
        model, [player, other], run="rests", monitor=str(folder), quiet=True
    ) as agent:
        for step in range(STEPS):
            model(torch.randn(16, 4)).square().mean().backward()
            player.step()
            if step % 2:
                other.step()
            schedule.step()
            player.zero_grad()
            other.zero_grad()
            agent.log(step=step, loss=1.0)
    return told(folder)


def told(folder: Path) -> dict[str, dict[str, Any]]:
    """The tables of all frames in the folder, joined."""
    joined: dict[str, dict[str, list[Any]]] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        for name, columns in decode(path.read_bytes())[1].items():
            for column, values in columns.items():
                joined.setdefault(name, {}).setdefault(column, []).append(values)
    return {
        name: {column: np.concatenate(parts) for column, parts in columns.items()}
        for name, columns in joined.items()
    }


def last_step(tables: dict[str, dict[str, Any]]) -> int:
    """The last that was looked at."""
    return int(tables["values"]["step"].max())


def test_every_step_is_told(tables: dict[str, dict[str, Any]]) -> None:
    """Rests have their row of time too, and their loss."""
    assert tables["steps"]["step"].tolist() == list(range(1, STEPS + 1))
    losses = tables["scalars"]["value"] == 1.0
    assert tables["scalars"]["step"][losses].tolist() == list(range(1, STEPS + 1))


def test_nothing_is_looked_at_in_a_rest(tables: dict[str, dict[str, Any]]) -> None:
    """No row of values, updates or gradients."""
    looked = {step + 1 for step in range(STEPS) if not resting(step)}
    for table in ("values", "updates", "gradients"):
        assert set(tables[table]["step"].tolist()) <= looked
    assert set(tables["values"]["step"].tolist()) == looked


def test_moves_are_counted_through_rests(tables: dict[str, dict[str, Any]]) -> None:
    """`since` adds up to the steps of the optimizer that holds a tensor, and to all rounds for a buffer."""
    updates = tables["updates"]
    last = last_step(tables)
    for tensor, moves in ((0, last), (2, last // 2), (4, last)):
        assert updates["since"][updates["tensor"] == tensor].sum() == moves


def test_schedules_are_known_through_rests(tables: dict[str, dict[str, Any]]) -> None:
    """Each step's learning rate, in order, and told before anything newer."""
    groups = tables["groups"]
    mine = groups["group"] == 0
    assert groups["step"][mine].tolist() == list(range(1, STEPS + 1))
    assert np.allclose(groups["lr"][mine], 1e-2 * 0.9 ** np.arange(mine.sum()))


def test_rests_that_tell_often_tell_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moves between two looks add up, however often they were told of."""
    found = []
    for name, seconds in (("often", 0.0), ("never", 1e9)):
        monkeypatch.setattr(rounds, "TELL_S", seconds)
        found.append(train(tmp_path / name))
    often, never = found
    assert often.keys() == never.keys()
    for table in ("updates", "groups", "values", "scalars"):
        for column, values in often[table].items():
            assert np.array_equal(values, never[table][column], equal_nan=True), (table, column)
    assert often["steps"]["step"].tolist() == never["steps"]["step"].tolist()


def test_rests_are_told_of_while_they_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is ended by a signal has told them; its last step is not complete, for a loss may still come."""
    monkeypatch.setattr(rounds, "TELL_S", 0.0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    agent = trainvitals.attach(model, optimizer, run="rests", monitor=str(tmp_path), quiet=True)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1.0 / (step + 1)
        model(torch.randn(4, 2)).sum().backward()
        optimizer.step()
    agent._sender._last_words()
    tables = told(tmp_path)
    frames = [path.read_bytes() for path in tmp_path.rglob("*.safetensors")]
    through = [decode(frame)[0]["complete_through"] for frame in frames]
    agent.close()
    assert tables["steps"]["step"].tolist() == list(range(1, STEPS + 1))
    assert tables["groups"]["step"].tolist() == list(range(1, STEPS + 1))
    assert max(through) == STEPS - 1


def test_a_rate_that_rests_find_as_they_left_it_is_told(tmp_path: Path) -> None:
    """It was another one at the looks between, and is the very same number again."""
    low, high = 0.125, 0.25
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=low)
    with trainvitals.attach(model, optimizer, run="rests", monitor=str(tmp_path), quiet=True):
        for step in range(1, STEPS + 1):
            optimizer.param_groups[0]["lr"] = high if step in {21, 22} else low
            model(torch.randn(4, 2)).sum().backward()
            optimizer.step()
    groups = told(tmp_path)["groups"]
    assert list(zip(groups["step"], groups["lr"], strict=True)) == [(1, low), (21, high), (23, low)]


def test_a_schedule_is_known_to_its_end(tmp_path: Path) -> None:
    """The trainer has let go of its optimizer when the agent is closed within rests: its last rates are told all the same."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    agent = trainvitals.attach(model, optimizer, run="rests", monitor=str(tmp_path), quiet=True)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1.0 / (step + 1)
        model(torch.randn(4, 2)).sum().backward()
        optimizer.step()
    del optimizer
    gc.collect()
    agent.close()
    groups = told(tmp_path)["groups"]
    assert groups["step"].tolist() == list(range(1, STEPS + 1))
    assert groups["lr"].tolist() == [1.0 / step for step in range(1, STEPS + 1)]


def test_repeated_batches_are_counted_through_rests(tmp_path: Path) -> None:
    """A loader that is begun anew at each step has a row for each, after the first two; one that goes on has none."""
    data = TensorDataset(torch.arange(2.0 * STEPS).reshape(-1, 2))
    for name, loader in (("anew", DataLoader(data, 4)), ("on", DataLoader(data, 1))):
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        going_on = iter(loader)
        with trainvitals.attach(
            model, optimizer, run=name, monitor=str(tmp_path / name), quiet=True
        ):
            for _ in range(STEPS):
                (batch,) = next(iter(loader) if name == "anew" else going_on)
                model(batch).sum().backward()
                optimizer.step()
    assert "draws" not in told(tmp_path / "on")
    draws = told(tmp_path / "anew")["draws"]
    assert draws["step"].tolist() == list(range(3, STEPS + 1))
    assert draws["repeats"].tolist() == list(range(1, STEPS - 1))


def test_a_debt_is_rested_off() -> None:
    """Rests end when what a look cost is paid; then two rounds are looked at."""
    rests = Rests()
    for _ in range(IN_A_ROW):
        assert not rests.is_due()
        rests.settle(0, 2.0, 2.0, fixed=6.0)
    count = 0
    while rests.is_due():
        rests.settle(1, 2.0, 2.0, fixed=0.0)
        count += 1
    assert count == 2 * 6 - 2
    for _ in range(IN_A_ROW):
        assert not rests.is_due()
        rests.settle(0, 2.0, 2.0, fixed=6.0)
    assert rests.is_due()


def test_what_is_not_needed_for_the_fixed_cost_goes_to_looks() -> None:
    """Long steps: nobody rests, and nearly all of the income is left."""
    rests = Rests()
    left = [rests.settle(0, 100.0, 100.0, fixed=1.0) for _ in range(10)]
    assert left == [99.0] * 10
    assert not rests.is_due()


def test_rests_are_bounded() -> None:
    """However deep the debt, a look comes by; and a stall is forgiven."""
    rests = Rests()
    for _ in range(IN_A_ROW):
        rests.settle(0, 1e-6, 1e-6, fixed=3600.0)
    assert rests._debt <= MAX_RESTS * 1e-6
    count = 0
    while rests.is_due():
        rests.settle(1, 1e-9, 1e-9, fixed=1e-6)
        count += 1
    assert count == MAX_RESTS


def test_what_rests_cannot_pay_looks_pay() -> None:
    """A rest that takes more than its part: once the debt is at its bound, it comes out of the looks' part, but for some."""
    rests = Rests()
    rests.settle(0, 2.0, 2.0, fixed=1e6)
    assert rests.settle(1, 2.0, 2.0, fixed=1.0) == 1.0
    assert rests.settle(1, 2.0, 2.0, fixed=1.5) == 0.5
    assert rests.settle(16, 32.0, 2.0, fixed=100.0) == 4.0
