"""
What a monitor is started with: address, store, tokens and limits, each with its default.

The command line fills this in; `Config.check` finds what cannot be meant, before anything is opened.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainvitals.frame import MAX_FRAME_BYTES
from trainvitals_monitor.tiers import LEAST_KEPT_STEPS

if TYPE_CHECKING:
    from trainvitals_monitor.overrides import Tuning

DEFAULT_PORT = 8420


@dataclass(frozen=True, kw_only=True)
class Limits:
    """
    Bounds on what a sender can make the monitor hold; beyond them it answers 4xx and counts the reason.

    `body_bytes`: one request's body. `queue_bytes`, `queue_frames`: what may wait for the writer. `tensors`: per rank
    of an attempt. `ranks`: world size. `span_steps`: first to last step in one frame, and ahead of its
    `complete_through`. `scalars`: names per frame. `runs`: stored runs. `live_runs`: runs kept in memory
    that don't send; those that do are as long as all take no more than `live_bytes`.
    """

    body_bytes: int = MAX_FRAME_BYTES
    queue_bytes: int = 256 << 20
    queue_frames: int = 2048
    tensors: int = 65_536
    ranks: int = 65_536
    span_steps: int = 65_536
    scalars: int = 256
    runs: int = 10_000
    live_runs: int = 32
    live_bytes: int = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Config:
    """
    All that `serve` and `create_app` need.

    `store`: a folder (made if missing), an .sqlite or .db file, or a sqlite:/// URL. `ingest_token`, `read_token`: None
    means open, which is refused on an address that others can reach unless `insecure`. `public_url`: how people reach
    the pages, for links; the address that is listened on if empty. `idle_exit_s`: end after so long without requests.
    `tuning`: thresholds that differ, for all runs. `notify`: where findings are told (notify.py), with `notify_over` also
    when they are over. `reference`: a folder of frames of a good run, or its name in the store `reference_store`, for runs
    that name no other. `keep_steps`: steps of an attempt whose values are kept one by one; 16 times as many have one
    entry in 16, all others one in 256. None: all.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    store: str = "trainvitals-store"
    ingest_token: str | None = field(default=None, repr=False)
    read_token: str | None = field(default=None, repr=False)
    operator_token: str | None = field(default=None, repr=False)
    insecure: bool = False
    public_url: str = ""
    idle_exit_s: float | None = None
    tuning: Tuning | None = None
    notify: tuple[str, ...] = field(default=(), repr=False)
    notify_over: bool = False
    reference: str = ""
    reference_store: str = ""
    keep_steps: int | None = 65_536
    limits: Limits = field(default_factory=Limits)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """ValueError, one line, when the settings together cannot be meant."""
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port}: give 1 to 65535, or 0 for any free one")
        if self.public_url and not self.public_url.startswith(("http://", "https://")):
            raise ValueError(f"public URL {self.public_url!r}: must start with http:// or https://")
        if self.idle_exit_s is not None and not self.idle_exit_s > 0:
            raise ValueError(f"idle exit after {self.idle_exit_s} s: must be above 0")
        if self.keep_steps is not None and self.keep_steps < LEAST_KEPT_STEPS:
            raise ValueError(
                f"keep {self.keep_steps} steps: give at least {LEAST_KEPT_STEPS}, or 0 for all"
            )
        for name in ("ingest_token", "read_token", "operator_token"):
            token = getattr(self, name)
            if token is not None and (
                len(token) < 8 or not token.isascii() or not token.isprintable()
            ):
                raise ValueError(f"{name}: at least 8 printable ASCII characters, no line breaks")
        open_to_others = not self.loopback and not (self.ingest_token and self.read_token)
        if open_to_others and not self.insecure:
            raise ValueError(
                f"{self.host} can be reached by others: give an ingest token and a read token, "
                f"listen on 127.0.0.1, or say --insecure"
            )

    @property
    def may_mute(self) -> bool:
        """Whether anybody may acknowledge and mute: with the operator's token, or where there are no tokens."""
        return bool(self.operator_token) or not (self.ingest_token or self.read_token)


def read_token_file(path: str | os.PathLike[str]) -> str:
    """The token that a file holds, without its line end; ValueError if the file is missing, empty or open to all."""
    token = _read_secret(path, "token file")
    if not token:
        raise ValueError(f"token file {os.fspath(path)!r} is empty")
    return token


def read_notify_file(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The URLs that a file holds, one a line, without empty lines and those that begin with #; ValueError as above."""
    lines = [line.strip() for line in _read_secret(path, "notify file").splitlines()]
    urls = tuple(line for line in lines if line and not line.startswith("#"))
    if not urls:
        raise ValueError(f"notify file {os.fspath(path)!r} has no URL in it")
    return urls


def _read_secret(path: str | os.PathLike[str], what: str) -> str:
    try:
        mode = os.stat(path).st_mode
        text = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} {os.fspath(path)!r}: {error}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ValueError(f"{what} {os.fspath(path)!r} can be read by every user: chmod 600 it")
    return text
