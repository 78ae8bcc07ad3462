"""
The agent on every kind of trainer: each step is seen once, nothing is compiled anew, no bit changes, all is given back.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import trainvitals
from tests.hooks.compiled_rows import plain, save_by_dcp
from tests.hooks.footprint import changed, everything_loaded, process_footprint
from tests.hooks.rows import ROWS
from tests.hooks.running import Row, check, run_alone, run_attached

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
    # Dynamo asks inner tensors for their .grad while it makes fakes of them.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning"),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_trainer_is_as_it_was(row: Row, tmp_path: Path) -> None:
    """Steps, graphs, bits, and what was touched, with the agent from the first step to the last."""
    alone = run_alone(row, tmp_path / "alone")
    check(row, alone, run_attached(row, tmp_path / "attached"))


def test_detached_in_the_middle(tmp_path: Path) -> None:
    """An agent that is closed after some steps leaves nothing in torch, and the training goes on as it was."""
    row = Row(save_by_dcp)
    run_alone(row, tmp_path / "imports")
    alone, detached = run_alone(row, tmp_path / "alone"), run_attached(row, tmp_path / "a", 2)
    assert detached.steps == [1, 2]
    assert detached.counters == alone.counters
    assert detached.different(alone) == []
    assert changed(detached.before, detached.after) == set()


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_nothing_else_in_torch_is_replaced(tmp_path: Path) -> None:
    """Of all functions and classes that torch and safetensors have loaded, only those that are listed; none is kept."""
    trainer = plain()
    owners = everything_loaded()
    before = process_footprint(owners)
    agent = trainvitals.attach(
        trainer.model, list(trainer.optimizers), monitor=str(tmp_path), budget=None, quiet=True
    )
    trainer.train(0)
    during, touched = process_footprint(owners), agent.touched()
    agent.close()
    assert changed(before, during) <= set(touched)
    assert changed(before, process_footprint(owners)) == set()
