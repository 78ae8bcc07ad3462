"""
replay: folders of frames, whole, broken and mixed, through the engine.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import nn

import trainvitals
from tests.monitor.stream import Stream
from tests.monitor.test_engine import ALL
from trainvitals.errors import BadFrame
from trainvitals.frame import decode
from trainvitals_monitor.replay import findings_json, is_bad, replay


def write(folder: Path, stream: Stream, run: str = "") -> None:
    """The stream's frames, as the agent writes them to a folder."""
    stream.close()
    for blob in stream.frames:
        header, _ = decode(blob)
        place = folder / (run or stream.run) / header["attempt"]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"rank{header['rank']:04d}-{header['seq']:08d}.safetensors").write_bytes(blob)


def faulty(run: str = "run") -> Stream:
    """A run with a finding in its second attempt."""
    stream = Stream(["w"], run=run)
    stream.step(values={"*": 1.0}, steps=12)
    stream.restart()
    stream.step(values={"*": 20.0})
    return stream


def test_every_finding_of_every_run(tmp_path: Path) -> None:
    """Runs in sub-folders at any depth are judged each by itself, in the order of their names."""
    write(tmp_path / "deep" / "er", faulty("b"))
    write(tmp_path, faulty("a"))
    engines = replay(tmp_path, ALL)
    assert [engine.run for engine in engines] == ["a", "b"]
    found = findings_json(engines)
    assert [(one["run"], one["detector"], one["first_step"]) for one in found] == [
        ("a", "large", 13),
        ("b", "large", 13),
    ]
    assert set(found[0]) >= {
        "id", "run", "attempt", "detector", "severity", "subjects", "first_step", "last_step", "status",
        "message", "evidence",
    }  # fmt: skip
    assert is_bad(engines)


def test_agent_and_replay_count_the_same_saves(tmp_path: Path) -> None:
    """A model's state and its optimizer's, each in a file of its own, are one checkpoint to both."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters())
    with trainvitals.attach(
        model, optimizer, run="run", monitor=str(tmp_path), quiet=True
    ) as agent:
        for _ in range(3):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            torch.save(model.state_dict(), io.BytesIO())
            torch.save(optimizer.state_dict(), io.BytesIO())
        model.load_state_dict(model.state_dict())
        told = agent.coverage()
    (engine,) = replay(tmp_path, [])
    exercised = engine.coverage()["exercised"]
    assert (told["saves"], told["loads"]) == (3, 1)
    assert (exercised["saves"], exercised["loads"]) == (3, 1)


def test_the_files_names_do_not_matter(tmp_path: Path) -> None:
    """Order comes from what the frames say."""
    write(tmp_path / "1", faulty())
    files = sorted((tmp_path / "1").rglob("*.safetensors"))
    (tmp_path / "2").mkdir()
    for number, path in enumerate(reversed(files)):
        (tmp_path / "2" / f"{number:03d}.safetensors").write_bytes(path.read_bytes())
    assert findings_json(replay(tmp_path / "2", ALL)) == findings_json(replay(tmp_path / "1", ALL))


def test_a_healthy_run_is_not_bad(tmp_path: Path) -> None:
    """No finding, exit status 0."""
    stream = Stream(["w"])
    stream.step(values={"*": 1.0})
    write(tmp_path, stream)
    engines = replay(tmp_path, ALL)
    assert not is_bad(engines)
    assert findings_json(engines) == []


def test_a_folder_without_frames_is_bad_input(tmp_path: Path) -> None:
    """The error says where frames were expected."""
    with pytest.raises(BadFrame, match="no frames in"):
        replay(tmp_path, ALL)
    with pytest.raises(BadFrame, match="no frames in"):
        replay(tmp_path / "absent", ALL)


@pytest.mark.parametrize("blob", [b"", b"\0" * 7, b"\xff" * 64, b"\2\0\0\0\0\0\0\0{}"])
def test_a_broken_file_is_named(tmp_path: Path, blob: bytes) -> None:
    """A file that is no frame is bad input, and the error names it."""
    write(tmp_path, faulty())
    broken = tmp_path / "run" / "attempt-1" / "rank0000-00000099.safetensors"
    broken.write_bytes(blob)
    with pytest.raises(BadFrame, match=r"rank0000-00000099\.safetensors: "):
        replay(tmp_path, ALL)


def test_frames_that_contradict_each_other_are_bad_input(tmp_path: Path) -> None:
    """Two processes as one rank of an attempt: the file that contradicts is named."""
    write(tmp_path / "one", faulty())
    other = Stream(["w"], run="run", world_size=2)
    other.step(values={"*": 1.0})
    write(tmp_path / "two", other)
    with pytest.raises(BadFrame, match="world_size="):
        replay(tmp_path, ALL)


def test_a_lost_frame_stops_nothing(tmp_path: Path) -> None:
    """What follows a frame that is missing is judged all the same."""
    write(tmp_path, faulty())
    gone = sorted((tmp_path / "run" / "attempt-1").iterdir())[3]
    gone.unlink()
    engines = replay(tmp_path, ALL)
    assert [one["detector"] for one in findings_json(engines)] == ["large"]
    assert [one.judged_steps for one in engines[0].history.attempts] == [11, 1]
