"""
A contract as a file: what it says, and what is refused with its line.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import trainvitals
from trainvitals.contract import Contract
from trainvitals.contract_file import read_contract
from trainvitals.errors import BadSetting
from trainvitals.lock import Lock, LockedTensor, count, expand, fold

WEIGHT = LockedTensor(kind="param", dtype="float32", shape=(4, 4), trainable=True, moves=True)
BUFFER = LockedTensor(kind="buffer", dtype="int64", shape=())
FULL = """
frozen = ["encoder.*"]
tied = [["a.w", "b.w"]]
ignore = ["*.counter"]
total_steps = 100

[dtypes]
"*.bias" = "float32"

[thresholds.parameter-stuck]
steps = 20
[thresholds.parameter-stuck."layers.*.norm"]
steps = 40
[thresholds.norm-explosion]
off = true

[lock]
first_step = 0
last_step = 20
moved_within = 1
[lock.params]
"layers.{0-1}.w" = { dtype = "float32", shape = [4, 4], trainable = true, moves = true }
[lock.buffers]
"step" = { dtype = "int64", shape = [] }
"""


def written(folder: Path, text: str) -> Path:
    """A file with this text."""
    path = folder / "c.toml"
    path.write_text(text)
    return path


def test_everything_that_a_file_may_say(tmp_path: Path) -> None:
    """Declarations, thresholds and the lock."""
    assert read_contract(written(tmp_path, FULL)) == Contract(
        frozen=("encoder.*",),
        tied=(("a.w", "b.w"),),
        ignore=("*.counter",),
        total_steps=100,
        dtypes={"*.bias": "float32"},
        thresholds={"parameter-stuck": {"*": {"steps": 20.0}, "layers.*.norm": {"steps": 40.0}}},
        off=("norm-explosion",),
        lock=Lock(tensors={"layers.{0-1}.w": WEIGHT, "step": BUFFER}, last_step=20, moved_within=1),
    )
    assert read_contract(written(tmp_path, "")) == Contract()


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("frozn = []", 1, "has no 'frozn' .did you mean 'frozen'.*it has: frozen, tied"),
        ("# frozen\n\nfrozen = 3", 3, "must be a list of FQN patterns"),
        ('ignore = []\ntied = [["a"]]', 2, "must be pairs"),
        ("total_steps = -1", 1, "0 or more"),
        ("[dtypes]\n'*' = 3", 1, "must be FQN patterns with dtypes"),
        ("[thresholds]\nx = 3", 2, "must be a table"),
        ("[thresholds.a]\nb = true", 2, "b = True must be a number"),
        ("[thresholds.a]\n\noff = 1.5\nx = nan", 4, "x = nan must be a number"),
        ("[lock]\nsteps = 3", 2, "the lock has no 'steps'"),
        ("[lock.params]\n'a.w' = 3", 2, "must be { dtype"),
        ("[lock.params]\n'a.w' = {dtype = 'float32'}", 2, "needs dtype"),
        ("[lock.params]\n'a.w' = {dtype = 'float32', shape = [], moves = 3}", 2, "true or false"),
        ("[lock.params]\n'a' = {dtype = 'x', shape = [], moved = true}", 2, "did you mean 'moves'"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    """File, line, what stands there and what is allowed."""
    with pytest.raises(BadSetting, match=says) as refused:
        read_contract(written(tmp_path, text))
    assert f"c.toml:{line}:" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("frozen = 1\nx = = 2", "is no TOML: .*line 2"),
        ("[dtypes]\n'*' = 'float31'", "no such dtype"),
        ("[lock.params]\n'{0-999999999}.w' = {dtype = 'x', shape = []}", "at most 100000"),
    ],
)
def test_other_bad_files(tmp_path: Path, text: str, says: str) -> None:
    """What is no TOML, and what the contract itself refuses."""
    with pytest.raises(BadSetting, match=says):
        read_contract(written(tmp_path, text))


def test_a_missing_file_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By attach, as an argument and from the environment, with how to make one."""
    model = nn.Linear(2, 2)
    with pytest.raises(BadSetting, match=r"can't be read.*contract write"):
        trainvitals.attach(model, monitor=str(tmp_path), contract=tmp_path / "none.toml")
    monkeypatch.setenv("TRAINVITALS_CONTRACT", str(tmp_path / "none.toml"))
    with pytest.raises(BadSetting, match="can't be read"):
        trainvitals.attach(model, monitor=str(tmp_path))


def test_an_object_and_the_environments_file_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the object leaves empty is the file's; the first frame carries both."""
    monkeypatch.setenv("TRAINVITALS_CONTRACT", str(written(tmp_path, FULL)))
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mine = Contract(frozen=["mine.*"])
    with trainvitals.attach(
        model, optimizer, monitor=str(tmp_path / "frames"), contract=mine, quiet=True
    ) as agent:
        header = agent._letterhead.header(1)
        assert header.contract["frozen"] == ["mine.*"]
        assert header.contract["total_steps"] == 100
        assert header.contract["lock"]["tensors"]["step"]["dtype"] == "int64"
        assert agent._letterhead.header(2).contract == {}


def test_layers_that_agree_are_one_line() -> None:
    """In the order of names; what differs, or is missing between, stands apart."""
    names = [f"layers.{i}.moe.{e}.w" for i in (0, 1, 2, 10) for e in range(4)]
    tensors = {
        **dict.fromkeys(names, WEIGHT),
        "layers.1.b": BUFFER,
        "layers.x.w": WEIGHT,
        "w": WEIGHT,
    }
    assert list(fold(tensors)) == ["layers.{0-2,10}.moe.{0-3}.w", "layers.1.b", "layers.x.w", "w"]
    odd = {**tensors, "layers.2.moe.3.w": BUFFER}
    assert sum(count(name) for name in fold(odd)) == len(odd)


PART = st.one_of(st.sampled_from(["a", "b", "07", "{0-3}x", "0x"]), st.integers(0, 12).map(str))


@given(
    st.dictionaries(
        st.lists(PART, min_size=1, max_size=4).map(".".join), st.sampled_from([WEIGHT, BUFFER])
    )
)
def test_folding_loses_nothing(tensors: dict[str, LockedTensor]) -> None:
    """Every tensor is named by one line, once."""
    folded = fold(tensors)
    assert {fqn: one for name, one in folded.items() for fqn in expand(name)} == tensors
    assert sum(count(name) for name in folded) == len(tensors)
