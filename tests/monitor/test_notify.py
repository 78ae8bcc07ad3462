"""
`serve --notify`: a real monitor tells a real webhook, patiently, and shows nobody its address.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.monitor.serving import serving, until
from tests.monitor.stream import Stream, tensor
from tests.monitor.webhook import Webhook
from trainvitals_monitor import delivery, notify, waking
from trainvitals_monitor.cli import cli
from trainvitals_monitor.config import Config, read_notify_file
from trainvitals_monitor.delivery import Outlet
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.waking import Message

SECRET = "xoxb-not-for-your-eyes"  # noqa: S105


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes less."""
    monkeypatch.setattr(notify, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(delivery, "FIRST_RETRY_S", 0.02)


@pytest.fixture
def hook() -> Iterator[Webhook]:
    """Where notifications arrive."""
    with Webhook().listening() as listening:
        yield listening


def address(hook: Webhook) -> str:
    """The webhook as apprise has it, with a secret in it."""
    return f"json://{hook.address}/{SECRET}"


def message(number: int = 0) -> Message:
    """A message that can be told from others."""
    return Message(
        kind="critical", run="run", title=f"title {number}", body="body", told=(str(number),)
    )


def faulty(run: str = "moe") -> Stream:
    """Three steps of a model whose routers' biases are bfloat16."""
    names = ["layers.0.expert_bias", "layers.1.expert_bias"]
    biases = [tensor(name, kind="buffer", dtype="bfloat16") for name in names]
    stream = Stream(["w", *biases], run=run)
    stream.optimizers([["w"]])
    for _ in range(3):
        stream.step(values={"*": 1.0}, updates={"w": 0.1}, loss=2.5, lr=[3e-4])
    stream.flush()
    return stream


def test_a_finding_reaches_the_webhook_once(tmp_path: Path, hook: Webhook) -> None:
    """It names run, detector, tensors and page; what comes later of the same finding is not told; it is counted."""
    stream = faulty()
    with serving(Config(store=str(tmp_path), notify=(address(hook),))) as http:
        http.push_all(stream.frames)
        until(lambda: bool(hook.got))
        sent = len(stream.frames)
        for _ in range(3):
            stream.step(values={"*": 1.0}, updates={"w": 0.1})
        stream.flush()
        http.push_all(stream.frames[sent:])
        time.sleep(0.3)
        assert http.metric("trainvitals_monitor_notifications_total", outcome="sent") == 1
        assert http.metric("trainvitals_monitor_notifications_waiting") == 0
    (got,) = hook.got
    assert (got["title"], got["type"]) == ("critical: run moe: contract-broken", "failure")
    assert "layers.0.expert_bias, layers.1.expert_bias" in got["message"]
    assert "/runs/moe" in got["message"]


def test_a_restart_tells_nothing_twice(tmp_path: Path, hook: Webhook) -> None:
    """The file beside the store remembers; what could not be delivered is told by the next monitor."""
    config = Config(store=str(tmp_path), notify=(address(hook),))
    first, second = faulty("first"), faulty("second")
    with serving(config) as http:
        http.push_all(first.frames)
        until(lambda: bool(hook.got))
        hook.status = 500
        http.push_all(second.frames)
        until(lambda: hook.posts > 2)
    hook.status = 200
    with serving(config) as http:
        sent = [len(stream.frames) for stream in (first, second)]
        for stream in (first, second):
            stream.step(values={"*": 1.0})
            stream.flush()
        http.push_all(first.frames[sent[0] :] + second.frames[sent[1] :])
        until(lambda: len(hook.got) == 2)
        time.sleep(0.2)
    assert [got["title"].split(": ")[1] for got in hook.got] == ["run first", "run second"]


def test_a_vanished_run_is_told(
    tmp_path: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message for all its ranks."""
    monkeypatch.setattr(waking, "VANISHED_S", 0.3)
    stream = Stream(["w"], world_size=2, run="gone")
    stream.step(values={"*": 1.0})
    stream.flush()
    with serving(Config(store=str(tmp_path), notify=(address(hook),))) as http:
        http.push_all(stream.frames)
        until(lambda: bool(hook.got))
        time.sleep(0.5)
    assert [got["title"] for got in hook.got] == ["run gone has vanished"]


def test_ingest_does_not_wait_for_a_webhook_that_hangs(tmp_path: Path) -> None:
    """Frames are answered while a delivery hangs; the monitor's end does not wait for it for long."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"json://127.0.0.1:{silent.getsockname()[1]}/"
        with serving(Config(store=str(tmp_path), notify=(url,))) as http:
            http.push_all(faulty().frames)
            notifier = http.monitor.notifier
            assert notifier is not None
            until(lambda: notifier.waiting() == 1)
            begun = time.monotonic()
            http.push_all(faulty("other").frames)
            assert time.monotonic() - begun < 2


def test_what_fails_is_tried_again_until_it_is_delivered(
    hook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    """Every failure is counted and the first one logged, without the address."""
    counted: Counter[str] = Counter()
    outlet = Outlet(address(hook), 1, counted)
    hook.status = 503
    outlet.start()
    with caplog.at_level(logging.DEBUG):
        outlet.put(message(1))
        outlet.put(message(2))
        until(lambda: hook.posts >= 4)
        hook.status = 200
        until(lambda: len(hook.got) == 2)
        outlet.close(5)
    assert {got["title"] for got in hook.got} == {"title 1", "title 2"}
    assert counted["sent"] == 2
    assert counted["failed"] >= 4
    said = [record.getMessage() for record in caplog.records if record.name.startswith("trainvit")]
    assert len(said) == 2
    assert said[0].startswith("notify URL 1 (json://): not delivered (it was refused, ")
    assert SECRET not in caplog.text
    assert hook.address not in "".join(said)


def test_a_full_queue_drops_the_oldest_and_counts(
    hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is new is more worth than what is old."""
    monkeypatch.setattr(delivery, "QUEUE", 3)
    counted: Counter[str] = Counter()
    outlet = Outlet(address(hook), 1, counted)
    for number in range(5):
        outlet.put(message(number))
    assert counted["dropped"] == 2
    outlet.start()
    outlet.close(5)
    assert [got["title"] for got in hook.got] == ["title 2", "title 3", "title 4"]


@pytest.mark.parametrize("url", ["", "slack", f"nonsense://{SECRET}"])
def test_an_address_that_is_none_is_refused_without_being_shown(url: str, tmp_path: Path) -> None:
    """At the start, in one line; the store is free again."""
    for _ in range(2):
        with pytest.raises(ValueError, match="notify URL 1") as refused:
            Monitor(Config(store=str(tmp_path), notify=(url,)))
        assert SECRET not in str(refused.value)


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where somebody asks for notifications."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ValueError, match=r"pip install 'trainvitals\[notify\]'"):
        Outlet("json://127.0.0.1:1/", 1, Counter())


def test_addresses_are_shown_nowhere() -> None:
    """Not in what a configuration shows of itself."""
    assert SECRET not in repr(Config(notify=(f"json://127.0.0.1/{SECRET}",)))


def test_the_file_of_addresses(tmp_path: Path) -> None:
    """One a line, with comments; nobody else may read it."""
    file = tmp_path / "notify.urls"
    file.write_text("# the night shift\njson://127.0.0.1:1/a\n\njson://127.0.0.1:1/b\n")
    file.chmod(0o600)
    assert read_notify_file(file) == ("json://127.0.0.1:1/a", "json://127.0.0.1:1/b")
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        read_notify_file(file)
    file.chmod(0o600)
    file.write_text("# nobody\n")
    with pytest.raises(ValueError, match="no URL"):
        read_notify_file(file)


def test_the_command_takes_addresses_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the option, the file and the environment; one that is none ends the start, and is not shown."""
    file = tmp_path / "notify.urls"
    file.write_text("json://127.0.0.1:1/b\n")
    file.chmod(0o600)
    taken: list[Config] = []

    def take(config: Config) -> int:
        taken.append(config)
        return 0

    monkeypatch.setattr("trainvitals_monitor.server.serve", take)
    monkeypatch.setenv("TRAINVITALS_NOTIFY", "json://127.0.0.1:1/c json://127.0.0.1:1/d")
    options = ["serve", "--notify", "json://127.0.0.1:1/a", "--notify-file", str(file)]
    assert CliRunner().invoke(cli, options).exit_code == 0
    assert [url[-1] for url in taken[0].notify] == ["a", "c", "d", "b"]
    refused = subprocess.run(
        [sys.executable, "-m", "trainvitals", "serve", "--port", "0", "--store", str(tmp_path)],
        env={**os.environ, "TRAINVITALS_NOTIFY": f"nonsense://{SECRET}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    assert "notify URL 1 (nonsense://) is no address that apprise understands" in refused.stderr
    assert SECRET not in refused.stderr


def test_no_thread_is_left(tmp_path: Path, hook: Webhook) -> None:
    """After the monitor's end nobody watches or sends any more."""
    with serving(Config(store=str(tmp_path), notify=(address(hook),))):
        pass
    until(lambda: not any("trainvitals" in one.name for one in threading.enumerate()))
