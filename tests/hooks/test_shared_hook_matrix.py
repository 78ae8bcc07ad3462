"""
The agent on two ranks that share a model: as tests/hooks/test_hook_matrix.py has it for one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.hooks.shared_rows import SHARED_ROWS

WORLD_SIZE = 2
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What each rank says is wrong with each row; one pair of processes runs them all."""
    folder = tmp_path_factory.mktemp("shared")
    environ = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.hooks.shared_program",
                str(folder),
                str(rank),
                str(WORLD_SIZE),
            ],
            env={
                **environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(WORLD_SIZE),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD_SIZE)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD_SIZE)]


@pytest.mark.parametrize("name", [row.name for row in SHARED_ROWS])
def test_a_shared_trainer_is_as_it_was(wrong: list[dict[str, str]], name: str) -> None:
    """Steps, graphs, bits, and what was touched, on each rank."""
    assert [each[name] for each in wrong] == [""] * WORLD_SIZE
