"""
The sender against a real HTTP server: what arrives, in which order, and what happens when nobody answers.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agent.small_monitor import SmallMonitor, add_step, header_for, settings_for
from trainvitals.errors import BadSetting
from trainvitals.frame import CheckpointSeen, Header, TensorInfo, decode
from trainvitals.link import BEHIND
from trainvitals.record import Record
from trainvitals.sender import Sender
from trainvitals_monitor.header import validate_header


class Bench:
    """A sender with its record; `through` is what its headers claim to be complete."""

    def __init__(self, monitor: str, tmp_path: Path, **settings: Any) -> None:
        self.record = Record(64 << 20)
        self.through = 0
        self.replies: list[dict[str, Any]] = []
        given = settings_for(monitor, spool=str(tmp_path / "spool"), **settings)
        self.sender = Sender(given, self.record, self.make_header, self.replies.append)

    def make_header(self, seq: int) -> Header:
        return header_for(seq, complete_through=self.through)

    def __enter__(self) -> Bench:
        self.sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.close(5.0)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition; fails the test if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spooled(tmp_path: Path) -> list[Path]:
    """Frames on disk."""
    return sorted((tmp_path / "spool").rglob("*.safetensors"))


def test_facts_arrive_and_the_reply_comes_back(tmp_path: Path) -> None:
    """What was recorded arrives after a flush, under the token, and the monitor's answer reaches the agent."""
    (tmp_path / "token").write_text("secret\n")
    with SmallMonitor() as monitor:
        monitor.reply = {"accepted": True, "findings": [{"id": "f1"}], "page": "p"}
        with Bench(monitor.url, tmp_path, token_file=str(tmp_path / "token")) as bench:
            add_step(bench.record, 1)
            assert bench.sender.flush(5.0)
            assert monitor.steps == [1]
            assert bench.replies[0]["findings"] == [{"id": "f1"}]
        assert monitor.headers[0]["Authorization"] == "Bearer secret"
        assert monitor.headers[0]["Content-Type"] == "application/octet-stream"
        assert monitor.num_connections == 1


def test_a_frame_is_made_within_the_interval(tmp_path: Path) -> None:
    """Nobody has to flush: facts leave by themselves, and events and tensor rows with them."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path) as bench:
        bench.record.tensor(_info(0))
        bench.record.event(CheckpointSeen(number=0, op="save", api="torch.save", step=3))
        until(lambda: len(monitor.blobs) == 1)
        header = decode(monitor.blobs[0])[0]
        assert header["tensors"][0]["fqn"] == "layer.0"
        assert header["events"][0]["api"] == "torch.save"


def test_complete_through_is_read_before_the_facts_are_taken(tmp_path: Path) -> None:
    """A step that ends while a frame is being made is not claimed complete by that frame."""
    with SmallMonitor() as monitor:
        bench = Bench(monitor.url, tmp_path)
        take = bench.record.take

        def take_while_a_step_ends() -> Any:
            taken = take()
            add_step(bench.record, 2)
            bench.through = 2
            return taken

        bench.record.take = take_while_a_step_ends  # type: ignore[method-assign]
        add_step(bench.record, 1)
        bench.through = 1
        with bench:
            bench.sender.flush(5.0)
        first = decode(monitor.blobs[0])[0]
        assert (first["complete_through"], monitor.steps[0]) == (1, 1)


def test_tensor_rows_come_in_pages_and_only_the_last_completes(tmp_path: Path) -> None:
    """4,500 tensors make three frames; facts that refer to them come last, and so does `complete_through`."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path, interval_s=30) as bench:
        for index in range(4500):
            bench.record.tensor(_info(index))
        add_step(bench.record, 7)
        bench.through = 7
        assert bench.sender.flush(20.0)
        headers = [decode(blob)[0] for blob in monitor.blobs]
        assert [len(header["tensors"]) for header in headers] == [2000, 2000, 500]
        assert [header["complete_through"] for header in headers] == [6, 6, 7]
        assert monitor.seqs == [1, 2, 3]
        assert "steps" in decode(monitor.blobs[2])[1]


def test_the_pages_before_the_first_step_are_taken_by_a_monitor(tmp_path: Path) -> None:
    """A large model's tensor table comes in several, and none of them may claim a step below 0."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path, interval_s=30) as bench:
        for index in range(4500):
            bench.record.tensor(_info(index))
        assert bench.sender.flush(20.0)
        headers = [validate_header(decode(blob)[0]) for blob in monitor.blobs]
        assert [header.complete_through for header in headers] == [-1, -1, 0]
        assert [header.first_step for header in headers] == [0, 0, 0]


def test_a_heartbeat_carries_the_phase_without_steps(tmp_path: Path) -> None:
    """With nothing to tell, frames go on every heartbeat_s."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path, heartbeat_s=0.1):
        until(lambda: len(monitor.blobs) >= 3)
        assert decode(monitor.blobs[1])[0]["phase"] == "training"
        assert decode(monitor.blobs[1])[1] == {}


def test_a_monitor_that_goes_away_and_comes_back_misses_nothing(tmp_path: Path) -> None:
    """
    Frames made while nobody listens arrive afterwards, in order, each with how many wait behind it; the trainer's thread
    never waits.
    """
    port = free_port()
    bench = Bench(f"http://127.0.0.1:{port}", tmp_path)
    slowest = 0.0
    with bench:
        with SmallMonitor(port) as first:
            add_step(bench.record, 1)
            until(lambda: first.steps == [1])
        for step in range(2, 40):
            began = time.perf_counter()
            add_step(bench.record, step)
            slowest = max(slowest, time.perf_counter() - began)
            time.sleep(0.02)
        until(lambda: len(spooled(tmp_path)) > 5)
        assert bench.sender.away
        with SmallMonitor(port) as second:
            until(lambda: 39 in second.steps)
            assert second.steps == list(range(2, 40))
            assert second.seqs == sorted(second.seqs)
            assert bench.sender.flush(5.0)
            behind = [int(one[BEHIND]) for one in second.headers if BEHIND in one]
            assert behind == sorted(behind, reverse=True)
            assert behind[0] > behind[-1] == 0
        assert slowest < 0.5
        assert not spooled(tmp_path)


def test_a_flush_without_a_monitor_ends_at_once(tmp_path: Path) -> None:
    """With nobody listening, flush says False without waiting for its time-out, and the facts are on disk."""
    with Bench(f"http://127.0.0.1:{free_port()}", tmp_path) as bench:
        add_step(bench.record, 1)
        began = time.monotonic()
        assert not bench.sender.flush(20.0)
        assert time.monotonic() - began < 5.0
        assert len(spooled(tmp_path)) >= 1


def test_close_does_not_hang_on_a_silent_monitor_and_loses_nothing(tmp_path: Path) -> None:
    """A server that never answers holds close() no longer than its time-out; the frame in flight is spooled."""
    with SmallMonitor() as monitor:
        monitor.delay_s = 30.0
        bench = Bench(monitor.url, tmp_path)
        bench.sender.start()
        add_step(bench.record, 1)
        time.sleep(0.3)
        add_step(bench.record, 2)
        began = time.monotonic()
        assert not bench.sender.close(0.5)
        assert time.monotonic() - began < 3.0
        tables = [decode(path.read_bytes())[1] for path in spooled(tmp_path)]
        steps = [int(step) for table in tables if table for step in table["steps"]["step"]]
        assert steps == [1, 2]


def test_a_later_process_sends_what_an_earlier_one_left(tmp_path: Path) -> None:
    """Frames of a process that is gone go first, and their folder is removed."""
    port = free_port()
    with Bench(f"http://127.0.0.1:{port}", tmp_path) as bench:
        add_step(bench.record, 1)
    assert spooled(tmp_path)
    with SmallMonitor(port) as monitor, Bench(monitor.url, tmp_path) as later:
        add_step(later.record, 2)
        assert later.sender.flush(5.0)
        assert monitor.steps == [1, 2]
        until(lambda: not list((tmp_path / "spool").glob("*/*")))


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_monitor_is_asked_again_when_it_said(tmp_path: Path, status: int) -> None:
    """429 and 503 put frames on disk until Retry-After is over; then they arrive."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path) as bench:
        monitor.answer = (status, {"Retry-After": "1"}, {"detail": "busy"})
        add_step(bench.record, 1)
        until(lambda: bool(bench.sender.away))
        refused_at = time.monotonic()
        monitor.answer = None
        until(lambda: monitor.steps == [1])
        assert 0.8 < time.monotonic() - refused_at < 5.0


def test_a_refused_frame_is_logged_once_counted_and_the_next_one_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """400: the reason is logged once, the count goes into the next header, and order goes on."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path) as bench:
        monitor.answer = (400, {}, {"detail": "column 'x' is wrong"})
        for step in (1, 2):
            add_step(bench.record, step)
            assert not bench.sender.flush(5.0)
        monitor.answer = None
        add_step(bench.record, 3)
        assert bench.sender.flush(5.0)
        assert monitor.steps == [3]
        assert sum(decode(blob)[0]["dropped"].get("frames", 0) for blob in monitor.blobs) >= 2
    assert sum("column 'x' is wrong" in record.getMessage() for record in caplog.records) == 1


def test_a_used_attempt_key_is_said_clearly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """409: the log names the settings that help."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path) as bench:
        monitor.answer = (409, {}, {"detail": "other process"})
        add_step(bench.record, 1)
        bench.sender.flush(5.0)
        monitor.answer = None
    assert any("TRAINVITALS_ATTEMPT" in record.getMessage() for record in caplog.records)


def test_a_renewed_token_brings_waiting_frames_through(tmp_path: Path) -> None:
    """401 keeps frames, and the token file is read again."""
    token = tmp_path / "token"
    token.write_text("old")
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path, token_file=str(token)) as bench:
        monitor.answer = (401, {}, {"detail": "bad token"})
        add_step(bench.record, 1)
        assert not bench.sender.flush(5.0)
        token.write_text("new")
        bench.sender.flush(5.0)
        monitor.answer = None
        assert bench.sender.flush(5.0)
        assert monitor.steps == [1]
        assert monitor.headers[0]["Authorization"] == "Bearer new"


def test_a_frame_that_crashes_the_monitor_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """After five answers of 500 a frame is given up and counted."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path) as bench:
        monitor.answer = (500, {}, {})
        add_step(bench.record, 1)
        bench.sender.flush(5.0)
        until(lambda: bench.sender.dropped.get("frames", 0) > 0 or not bench.sender.flush(1.0))
        for _ in range(6):
            bench.sender.flush(1.0)
        monitor.answer = None
        add_step(bench.record, 2)
        until(lambda: bench.sender.flush(5.0))
        assert monitor.steps[-1] == 2
        assert 1 not in monitor.steps


def test_what_the_record_dropped_is_told(tmp_path: Path) -> None:
    """Rows that did not fit into memory stand in the next header."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path, interval_s=30) as bench:
        bench.record._limit_bytes = 1000
        for step in range(100):
            add_step(bench.record, step)
        assert bench.sender.flush(5.0)
        dropped = decode(monitor.blobs[0])[0]["dropped"]["rows"]
        assert dropped == 100 - len(monitor.steps) > 0


def test_facts_that_fit_no_frame_do_not_stop_the_others(tmp_path: Path) -> None:
    """A page that cannot be encoded is dropped and counted; the next one goes."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path, interval_s=30) as bench:
        bench.record._rows.append(("steps", {"step": [1, 2], "time": [0.0]}))  # type: ignore[dict-item]
        bench.sender.flush(5.0)
        add_step(bench.record, 3)
        assert bench.sender.flush(5.0)
        assert monitor.steps == [3]


def test_a_large_take_is_cut_into_frames_that_the_wire_allows(tmp_path: Path) -> None:
    """Rows of 40 MB arrive in several frames of at most some 16 MB."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path, interval_s=30) as bench:
        add_step(bench.record, 1, rows=1_250_000)
        assert bench.sender.flush(30.0)
        assert len(monitor.steps) == 1_250_000
        assert max(map(len, monitor.blobs)) < 17 << 20


def test_a_manifest_too_large_for_a_header_is_cut_with_its_rows(tmp_path: Path) -> None:
    """A save of 60,000 keys arrives without those beyond the header, whose rows are left out and counted."""
    with SmallMonitor() as monitor, Bench(monitor.url, tmp_path, interval_s=30) as bench:
        keys = [f"model.layers.{i}.mlp.experts.{i}.gate_proj.weight" for i in range(60_000)]
        bench.record.event(
            CheckpointSeen(
                number=4, op="save", api="torch.save", step=1, keys=keys, live_keys=keys,
                tensors=[-1] * 60_000, dtypes=["float32"] * 60_000, shapes=[[8, 8]] * 60_000,
            )
        )  # fmt: skip
        rows = range(60_000)
        bench.record.add(
            "manifest", checkpoint=[4] * 60_000, entry=rows, tensor=rows, step=[1] * 60_000
        )
        assert bench.sender.flush(30.0)
        frames = [decode(blob) for blob in monitor.blobs]
        (event,) = [event for header, _ in frames for event in header["events"]]
        entries = [int(e) for _, tables in frames if tables for e in tables["manifest"]["entry"]]
        assert 10_000 < len(event["keys"]) == len(event["shapes"]) == len(entries) < 60_000
        bench.sender.flush(5.0)
        dropped = [decode(blob)[0]["dropped"].get("manifest entries", 0) for blob in monitor.blobs]
        assert sum(dropped) == 60_000 - len(entries)


def test_frames_in_a_folder_are_whole_and_named_by_run_attempt_rank(tmp_path: Path) -> None:
    """Folder mode: one file a frame, under names that are safe, nothing half-written, in order."""
    record = Record(1 << 20)
    settings = settings_for(str(tmp_path / "frames"), run="a/b ü")
    sender = Sender(
        settings, record, lambda seq: header_for(seq, run="a/b ü", rank=3, world_size=4), _ignore
    )
    sender.start()
    for step in (1, 2):
        add_step(record, step)
        assert sender.flush(5.0)
    assert sender.close(5.0)
    files = sorted((tmp_path / "frames").rglob("*"))
    names = [path.name for path in files if path.is_file()]
    assert names[:2] == ["rank0003-00000001.safetensors", "rank0003-00000002.safetensors"]
    assert all(name.endswith(".safetensors") for name in names)
    assert decode(next(p for p in files if p.is_file()).read_bytes())[0]["run"] == "a/b ü"
    assert files[0].parent == tmp_path / "frames"
    assert files[0].name.startswith("a_b__-")


def test_a_folder_that_holds_another_launch_is_not_overwritten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same run and attempt key again: the frames that are there stay, and the log says why."""
    for step in (1, 2):
        record = Record(1 << 20)
        sender = Sender(settings_for(str(tmp_path / "f")), record, header_for, _ignore)
        sender.start()
        add_step(record, step)
        sender.flush(5.0)
        sender.close(1.0)
    first = tmp_path / "f" / "r" / "a" / "rank0000-00000001.safetensors"
    assert int(decode(first.read_bytes())[1]["steps"]["step"][0]) == 1
    assert any("attempt" in record.getMessage() for record in caplog.records)


def test_wrong_token_certificate_and_address_fail_at_once(tmp_path: Path) -> None:
    """Before the first step, with a sentence that names the setting."""
    record = Record(1 << 20)
    for monitor, given, named in (
        ("http://127.0.0.1:1", {"token_file": str(tmp_path / "none")}, "token_file"),
        ("https://127.0.0.1:1", {"ca_file": str(tmp_path / "none")}, "ca_file"),
        ("http://127.0.0.1:99999", {}, "monitor"),
        ("http://", {}, "monitor"),
    ):
        with pytest.raises(BadSetting, match=named):
            Sender(settings_for(monitor, **given), record, header_for, _ignore)


def test_no_thread_and_no_handler_is_left_after_close(tmp_path: Path) -> None:
    """close() ends the thread and gives SIGTERM back."""
    with SmallMonitor() as monitor:
        bench = Bench(monitor.url, tmp_path)
        with bench:
            assert bench.sender.touched() == ["signal: SIGTERM handler"]
        assert bench.sender.touched() == []
        until(lambda: all(each.name != "trainvitals-sender" for each in threading.enumerate()))
        assert not bench.sender.flush(1.0)


_PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from tests.agent.test_sender import Bench, add_step
from pathlib import Path
bench = Bench({url!r}, Path({tmp!r}), interval_s=30)
bench.sender.start()
add_step(bench.record, 1)
{rest}
"""


def _run(tmp_path: Path, url: str, rest: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    program = _PROGRAM.format(root=root, url=url, tmp=str(tmp_path), rest=textwrap.dedent(rest))
    return subprocess.run(
        [sys.executable, "-c", program], timeout=60, capture_output=True, text=True, check=False
    )


def test_sigterm_sends_what_waits_and_still_kills(tmp_path: Path) -> None:
    """SIGTERM in the middle of training: the facts arrive, and the exit status is the signal's."""
    with SmallMonitor() as monitor:
        done = _run(tmp_path, monitor.url, "os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)")
        assert done.returncode == -15, done.stderr
        assert monitor.steps == [1]


def test_sigterm_without_a_monitor_spools(tmp_path: Path) -> None:
    """The same with nobody listening: the facts are on disk."""
    url = f"http://127.0.0.1:{free_port()}"
    done = _run(tmp_path, url, "os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)")
    assert done.returncode == -15, done.stderr
    assert spooled(tmp_path)


def test_a_trainers_own_sigterm_handler_stays(tmp_path: Path) -> None:
    """Who handles SIGTERM before us or after us keeps it."""
    with SmallMonitor() as monitor:
        rest = """
            assert bench.sender.touched() == ["signal: SIGTERM handler"]
            handler = lambda *_: sys.exit(7)
            signal.signal(signal.SIGTERM, handler)
            bench.sender.close(5)
            assert signal.getsignal(signal.SIGTERM) is handler
            again = Bench(sys.argv[0] or "unused-folder", Path("."))
            again.sender.start()
            assert again.sender.touched() == []
            os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)
        """
        done = _run(
            tmp_path,
            monitor.url,
            rest.replace('sys.argv[0] or "unused-folder"', repr(str(tmp_path / "f"))),
        )
        assert done.returncode == 7, done.stderr


def test_a_forked_child_sends_nothing_and_dies_of_sigterm(tmp_path: Path) -> None:
    """DataLoader workers hold a copy of the sender: it is silent, and SIGTERM is the default's again."""
    with SmallMonitor() as monitor:
        rest = """
            pid = os.fork()
            if pid == 0:
                assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
                add_step(bench.record, 2)
                assert not bench.sender.flush(1.0)
                assert not bench.sender.close(1.0)
                os._exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
            assert bench.sender.close(5.0)
        """
        done = _run(tmp_path, monitor.url, rest)
        assert done.returncode == 0, done.stderr
        assert monitor.steps == [1]


def _ignore(_reply: dict[str, Any]) -> None:
    """An agent that does not care for the answer."""


def _info(index: int) -> TensorInfo:
    return TensorInfo(
        index=index, fqn=f"layer.{index}", raw_fqn=f"layer.{index}", kind="param", dtype="float32", shape=[8, 8]
    )  # fmt: skip
