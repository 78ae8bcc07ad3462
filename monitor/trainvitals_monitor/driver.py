"""
Statements of every frame and of every read, given to SQLite's driver as text: SQLAlchemy's way through takes as long again
as SQLite does. The connection is SQLAlchemy's all the same, and so are the errors.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from sqlalchemy import PoolProxiedConnection
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError


@contextmanager
def direct(connection: PoolProxiedConnection, statement: str) -> Iterator[DBAPICursor]:
    """The driver's cursor, for this statement; raises DBAPIError, as SQLAlchemy does."""
    with closing(connection.cursor()) as cursor:
        try:
            yield cursor
        except sqlite3.Error as error:
            raise DBAPIError.instance(statement, None, error, sqlite3.Error) from error
