"""
Is everything in place for a trainer on this machine to be watched? Each check is one line: well or not, and what to do.

It looks with the trainer's eyes: at the same settings from the environment, from the same machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trainvitals.errors import BadSetting
from trainvitals.settings import Settings, resolve
from trainvitals.spool import spool_root
from trainvitals_monitor.client import Client, MonitorError
from trainvitals_monitor.config import read_token_file

_LARGEST_SKEW_S = 30.0
_SMALLEST_TORCH = (2, 6)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one check says; `advice` is for a problem."""

    what: str
    ok: bool
    text: str
    advice: str = ""


def examine(monitor: str | None = None, read_token: str | None = None) -> Iterator[Line]:
    """All checks, as they are made; those that need a monitor are left out when it can't be reached."""
    yield _check_python()
    yield _check_torch()
    try:
        settings = resolve({"monitor": monitor})
    except BadSetting as error:
        yield Line(
            what="settings", ok=False, text=str(error), advice="Correct it in the environment."
        )
        return
    yield Line(what="settings", ok=True, text=_given_settings())
    if settings.to_folder:
        yield _check_folder(settings)
        return
    yield from _check_monitor(settings, read_token)
    yield _check_spool(settings)


def _check_python() -> Line:
    return Line(
        what="python",
        ok=sys.version_info >= (3, 10),
        text=f"{sys.version.split()[0]}, trainvitals {version('trainvitals')}",
        advice="Python 3.10 or later is needed.",
    )


def _check_torch() -> Line:
    try:
        found = version("torch")
    except PackageNotFoundError:
        return Line(
            what="torch", ok=True, text="not installed: this machine can serve, but not train"
        )
    number = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdigit())
    return Line(
        what="torch",
        ok=number >= _SMALLEST_TORCH,
        text=found,
        advice="Update to torch 2.6 or later.",
    )


def _given_settings() -> str:
    names = sorted(name for name in os.environ if name.startswith("TRAINVITALS_"))
    return f"from the environment: {', '.join(names)}" if names else "all at their defaults"


def _check_folder(settings: Settings) -> Line:
    folder = Path(settings.monitor).absolute()
    writable = _is_writable(folder)
    return Line(
        what="frames",
        ok=writable,
        text=f"go to the folder {folder}: nobody judges them until `trainvitals replay {settings.monitor}`",
        advice="The folder can't be written: name another one in TRAINVITALS_MONITOR, or a monitor's URL.",
    )


def _is_writable(folder: Path) -> bool:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _check_monitor(settings: Settings, read_token: str | None) -> Iterator[Line]:
    client = Client(settings.monitor, token=read_token)
    try:
        health = client.get("/healthz")
    except MonitorError as error:
        yield Line(
            what="monitor",
            ok=False,
            text=str(error),
            advice="Start one (`trainvitals serve`), or correct TRAINVITALS_MONITOR. Trainers spool until then.",
        )
        return
    yield Line(what="monitor", ok=True, text=f"answers at {client.url}")
    yield _check_version(str(health.get("version", "?")))
    yield Line(
        what="store",
        ok=client.is_ready(),
        text="takes frames" if client.is_ready() else "the monitor does not take frames now",
        advice="See the monitor's log: it may still be starting, or its store can't be written.",
    )
    yield _check_clock(client)
    yield _check_token("ingest token", lambda: _send_nothing(settings), "TRAINVITALS_TOKEN_FILE")
    yield _check_token("read token", client.runs, "--token-file")


def _check_version(theirs: str) -> Line:
    ours = version("trainvitals")
    return Line(
        what="version",
        ok=ours.split(".")[:2] == theirs.split(".")[:2],
        text=f"monitor {theirs}, here {ours}",
        advice="Install the same version on both sides; neighbouring ones understand each other.",
    )


def _check_clock(client: Client) -> Line:
    ahead = client.clock_ahead_s()
    if ahead is None:
        return Line(what="clock", ok=True, text="the monitor does not tell its time")
    return Line(
        what="clock",
        ok=abs(ahead) <= _LARGEST_SKEW_S,
        text=f"the monitor's is {abs(ahead):.0f} s {'ahead' if ahead >= 0 else 'behind'}",
        advice="Set the clocks by NTP: times of steps would not fit those of other systems.",
    )


def _check_token(what: str, ask: Callable[[], object], where: str) -> Line:
    try:
        ask()
    except (MonitorError, ValueError) as error:
        return Line(
            what=what, ok=False, text=str(error), advice=f"Name a file that holds it in {where}."
        )
    return Line(what=what, ok=True, text="accepted, or none is wanted")


def _send_nothing(settings: Settings) -> None:
    """Post an empty frame: the token is looked at first, so any refusal but 401 says that it is right."""
    token = read_token_file(settings.token_file) if settings.token_file else None
    Client(settings.monitor, token=token).probe_ingest()


def _check_spool(settings: Settings) -> Line:
    folder = spool_root(settings.spool)
    sizes = [path.stat().st_size for path in folder.glob("*/*/*.safetensors")]
    waiting = f"{len(sizes)} frames ({sum(sizes) / 1e6:.1f} MB) wait" if sizes else "no frames wait"
    if not _can_write(folder):
        return Line(
            what="spool",
            ok=False,
            text=f"{folder} can't be written",
            advice="Name another folder in TRAINVITALS_SPOOL: facts would be lost while the monitor is away.",
        )
    return Line(what="spool", ok=True, text=f"{waiting} in {folder}")


def _can_write(folder: Path) -> bool:
    if not folder.exists():
        return _is_writable(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
