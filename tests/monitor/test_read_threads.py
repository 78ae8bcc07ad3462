"""
How often a question to the API changes threads: each time it waits for the interpreter's lock, while frames are judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from tests.monitor.serving import Client, serving
from tests.monitor.stream import Stream
from trainvitals_monitor.config import Config

QUESTIONS = (
    "runs",
    "runs/run",
    "runs/run/findings",
    "runs/run/tensors",
    "runs/run/worst?stat=norm",
    "runs/run/series?tensor=a&stat=norm",
)


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Client]:
    """A monitor that has a run."""
    stream = Stream(["a", "b"], run="run")
    stream.step(values={"*": 1.0})
    stream.flush()
    with serving(Config(store=str(tmp_path))) as client:
        client.push_all(stream.frames)
        yield client


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_takes_one_thread(
    http: Client, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """One for all of it: to find what is asked for, and to write the answer."""
    taken = []
    run_sync = anyio.to_thread.run_sync

    async def counted(called: Any, *given: Any, **named: Any) -> Any:
        taken.append(called)
        return await run_sync(called, *given, **named)

    monkeypatch.setattr(anyio.to_thread, "run_sync", counted)
    http.get_json(f"/api/v1/{question}")
    assert len(taken) == 1
