"""
Where frames wait on disk while the monitor is away.

One folder per monitor, and in it one box per sender: `<host>-<pid>-<word>/` with a `lock` that its owner holds for as
long as it lives, and one file a frame. A box whose lock is free belonged to a process that is gone: any sender may
adopt it, send what is in it, and remove it. So no two processes send the same frame at once, and ranks on one node do
not meet. Where locks do not work (some network file systems) nothing is adopted: its frames stay where they are.

All calls come from the sender's thread, or after that thread was told to keep its hands off.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import socket
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

_RESCAN_S = 10.0


def safe_name(text: str) -> str:
    """The text as a file name: what is not safe becomes `_`, and then a few letters of a hash keep names apart."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", text)[:80].lstrip(".")
    if safe and safe == text:
        return safe
    return f"{safe or 'unnamed'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_whole(path: Path, blob: bytes) -> None:
    """Write a file that appears at once or not at all; OSError if it cannot be written."""
    # Another suffix, so that nobody takes a half-written file for a frame.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(blob)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def spool_root(given: str = "") -> Path:
    """The folder given, else one in the user's cache; in the temporary folder if that cannot be written."""
    if given:
        return Path(given).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    root = (Path(cache) if cache else Path("~/.cache").expanduser()) / "trainvitals" / "spool"
    with contextlib.suppress(OSError):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.access(root, os.W_OK):
        return root
    return Path(tempfile.gettempdir()) / f"trainvitals-spool-{os.getuid()}"


class Box:
    """One sender's frames, oldest first. Whoever holds the lock owns it."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor
        self.waiting = deque((path, _size(path)) for path in sorted(folder.glob("*.safetensors")))

    @classmethod
    def locked(cls, folder: Path) -> Box | None:
        """The box, if nobody else holds its lock."""
        try:
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / "lock").stat()  # raises if its owner removed the box meanwhile
        except OSError:
            os.close(descriptor)
            return None
        return cls(folder, descriptor)

    @property
    def oldest_name(self) -> str:
        """Frames are named by the time they were made."""
        return self.waiting[0][0].name if self.waiting else ""

    def close(self) -> None:
        """Let go of the box; an empty one is removed."""
        if not self.waiting:
            with contextlib.suppress(
                OSError
            ):  # gone already, or something that is not ours is in it
                (self.folder / "lock").unlink(missing_ok=True)
                self.folder.rmdir()
        self.forget()

    def forget(self) -> None:
        """Close the lock's descriptor. In a forked child the parent's keeps the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Spool:
    """
    The frames that wait for one monitor: those of earlier processes first, then this sender's own.

    `limit_bytes` bounds all boxes of the monitor together; beyond it the oldest frames go: orphans' first, then our own
    (never another living sender's).
    """

    def __init__(self, root: Path, monitor: str, limit_bytes: int) -> None:
        self.folder = root / safe_name(monitor.partition("://")[2].rstrip("/"))
        self._limit_bytes = limit_bytes
        self._orphans: list[Box] = []
        self._own: Box | None = None
        self._own_name = f"{safe_name(socket.gethostname())}-{os.getpid()}-{secrets.token_hex(4)}"
        self._others_bytes = 0
        self._scanned_at = -_RESCAN_S

    def __len__(self) -> int:
        return sum(len(box.waiting) for box in self._boxes())

    def adopt(self) -> int:
        """Take over what processes that are gone have left; how many frames that is."""
        found = [box for folder in self._other_folders() if (box := Box.locked(folder)) is not None]
        for box in found:
            if not box.waiting:
                box.close()
        found = sorted((box for box in found if box.waiting), key=lambda box: box.oldest_name)
        self._orphans += found
        return sum(len(box.waiting) for box in found)

    def put(self, blob: bytes) -> list[bytes]:
        """
        Keep a frame; returns the frames that had to go for it.

        Raises OSError if it cannot be written.
        """
        dropped = self._make_room(len(blob))
        own = self._own_box()
        path = own.folder / f"{time.time_ns():020d}.safetensors"
        try:
            write_whole(path, blob)
        except OSError:
            if not own.folder.is_dir():  # somebody has tidied up: begin a new box next time
                own.forget()
                self._own = None
            raise
        own.waiting.append((path, len(blob)))
        return dropped

    def oldest(self) -> bytes | None:
        """The frame to send next; None when nothing waits."""
        for box in self._boxes():
            while box.waiting:
                with contextlib.suppress(OSError):
                    return box.waiting[0][0].read_bytes()
                box.waiting.popleft()  # somebody has tidied up
        return None

    @property
    def num_behind(self) -> int:
        """Frames that wait behind the one that `oldest` gives, of the same process."""
        return next((len(box.waiting) - 1 for box in self._boxes() if box.waiting), 0)

    def sent(self) -> None:
        """The frame that `oldest` gave has arrived, or was refused: forget it."""
        for box in self._boxes():
            if box.waiting:
                path, _ = box.waiting.popleft()
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                break
        for box in [box for box in self._orphans if not box.waiting]:
            self._orphans.remove(box)
            box.close()

    def close(self) -> None:
        """Let go of all boxes; what waits stays for a later process."""
        for box in self._boxes():
            box.close()
        self._orphans, self._own = [], None

    def forget(self) -> None:
        """In a forked child: close the locks' descriptors, and touch nothing."""
        for box in self._boxes():
            box.forget()
        self._orphans, self._own = [], None

    def _boxes(self) -> list[Box]:
        return [*self._orphans, *([self._own] if self._own is not None else [])]

    def _own_box(self) -> Box:
        if self._own is None:
            # Locked under a hidden name first: otherwise another sender could adopt it before its owner does.
            hidden = self.folder / f".{self._own_name}"
            hidden.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Where no lock is to be had others get none either, and nobody adopts the box.
            box = Box.locked(hidden) or Box(hidden, -1)
            box.folder = self.folder / self._own_name
            hidden.rename(box.folder)
            self._own = box
        return self._own

    def _other_folders(self) -> Iterator[Path]:
        held = {box.folder for box in self._boxes()}
        if self.folder.is_dir():
            for folder in self.folder.iterdir():
                if folder.is_dir() and folder not in held and not folder.name.startswith("."):
                    yield folder

    def _make_room(self, size: int) -> list[bytes]:
        dropped = []
        while len(self) and self._held_bytes() + size > self._limit_bytes:
            blob = self.oldest()
            if blob is not None:
                dropped.append(blob)
                self.sent()
        return dropped

    def _held_bytes(self) -> int:
        """Bytes of all boxes; those of other living senders as they were some seconds ago."""
        now = time.monotonic()
        if now - self._scanned_at >= _RESCAN_S:
            self._scanned_at = now
            self._others_bytes = sum(
                _size(path)
                for folder in self._other_folders()
                for path in folder.glob("*.safetensors")
            )
        return self._others_bytes + sum(size for box in self._boxes() for _, size in box.waiting)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
