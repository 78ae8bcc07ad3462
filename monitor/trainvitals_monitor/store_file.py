"""
Opening the store's file: where it is, whether SQLite may live there, and that no other monitor has it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from trainvitals_monitor import schema
from trainvitals_monitor.filesystem import NETWORK_TYPES, file_system

_FILE_NAME = "monitor.sqlite"
# A frame is some hundred kB: large pages mean short overflow chains (measured: 0.2 ms of CPU less a frame than 4 kB).
_PAGE_BYTES = 16384
_BUSY_MS = 5000


class StoreUnusable(ValueError):
    """The store cannot be opened; one line that says why and what to do."""


def resolve_path(where: str) -> Path:
    """The store's file, its folder made if missing; `where` is a folder, an .sqlite or .db file, or a sqlite:/// URL."""
    path = _path_of(where)
    kind = file_system(path)
    if kind in NETWORK_TYPES:
        raise StoreUnusable(
            f"store {path}: it is on a network file system ({kind}), where SQLite's locks do not hold; "
            f"give a folder on a local disk"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreUnusable(f"store {path}: {error.strerror or error}") from error
    return path


def existing_path(where: str) -> Path:
    """The file of a store that is there already, and need not be ours."""
    path = _path_of(where)
    if not path.is_file():
        raise StoreUnusable(f"store {path}: there is none")
    return path


def lock_file(path: Path) -> int:
    """Take the store for this process; the descriptor to close. The kernel gives it back when the process ends."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnusable(f"store {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreUnusable(f"store {path}: another monitor is using it") from error
    return descriptor


def open_file(path: Path) -> Engine:
    """The engine on the file, its tables made if they are missing."""
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, connect_args={"timeout": _BUSY_MS / 1000})
    event.listen(engine, "connect", _prepare)
    try:
        with engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version > schema.SCHEMA:
                raise StoreUnusable(
                    f"store {path}: written by a newer trainvitals (schema {version}, known is {schema.SCHEMA})"
                )
            schema.metadata.create_all(connection)
            # A store from before it has the table, and create_all leaves that as it is.
            schema.frames_by_step.create(connection, checkfirst=True)
            connection.exec_driver_sql(f"PRAGMA user_version = {schema.SCHEMA}")
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreUnusable(f"store {path}: {getattr(error, 'orig', None) or error}") from error
    except StoreUnusable:
        engine.dispose()
        raise
    return engine


def read_file(path: Path) -> Engine:
    """The engine on a file that another process may be writing: queries only."""
    engine = create_engine(URL.create("sqlite", database=str(path)))
    event.listen(engine, "connect", _only_queries)
    try:
        with engine.connect() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreUnusable(f"store {path}: {getattr(error, 'orig', None) or error}") from error
    if version != schema.SCHEMA:
        engine.dispose()
        raise StoreUnusable(f"store {path}: of schema {version}, known is {schema.SCHEMA}")
    return engine


def _path_of(where: str) -> Path:
    if "://" in where:
        try:
            url = make_url(where)
        except ArgumentError as error:
            raise StoreUnusable(f"store {where!r}: not a URL") from error
        if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
            raise StoreUnusable(
                f"store {url.drivername}: only a file, as sqlite:///path or a folder"
            )
        return Path(url.database)
    if not where:
        raise StoreUnusable("store: give a folder")
    path = Path(where)
    return path if path.suffix in (".sqlite", ".db") and not path.is_dir() else path / _FILE_NAME


def _only_queries(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("query_only = ON", f"busy_timeout = {_BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # The page size counts only before the file has its first page, hence first.
    for pragma in (
        f"page_size = {_PAGE_BYTES}",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        f"busy_timeout = {_BUSY_MS}",
        "temp_store = MEMORY",
        # Debian builds SQLite to write zeros over what is deleted. Frames are forgotten for room, not for secrecy.
        "secure_delete = OFF",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
