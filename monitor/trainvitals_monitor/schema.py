"""
The store's tables, as SQLAlchemy Core has them. `SCHEMA` grows when they change in a way that old code cannot read.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

SCHEMA = 1

metadata = MetaData()

# SQLite makes only INTEGER, not BIGINT, an alias of its row id.
_KEY = BigInteger().with_variant(Integer, "sqlite")

runs = Table(
    "runs",
    metadata,
    Column("id", _KEY, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("last_seen", Double, nullable=False),
    Column("summary", Text, nullable=False, default="{}"),
)
attempts = Table(
    "attempts",
    metadata,
    Column("id", _KEY, primary_key=True),
    Column("run_id", _KEY, ForeignKey("runs.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("world_size", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    # The mark, for readers, a little behind: steps up to here were judged.
    Column("judged_through", BigInteger, nullable=False, default=-1),
    UniqueConstraint("run_id", "key"),
)
# Numbers below `floor` were received and their frames may be gone: what arrives again is a duplicate.
floors = Table(
    "floors",
    metadata,
    Column("attempt_id", _KEY, ForeignKey("attempts.id"), primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("floor", BigInteger, nullable=False),
)
# The frames as they came, in order of `id`. `whole` is false once only what a restart needs is left of the blob;
# `lasting` says that there will be something left, `digested` that it has the rank's first digests (retention.py).
frames = Table(
    "frames",
    metadata,
    Column("id", _KEY, primary_key=True),
    Column("attempt_id", _KEY, ForeignKey("attempts.id"), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("whole", Boolean, nullable=False, default=True),
    Column("lasting", Boolean, nullable=False),
    Column("digested", Boolean, nullable=False),
    Column("blob", LargeBinary, nullable=False),
    UniqueConstraint("attempt_id", "rank", "seq"),
)
# Frames are large, and old ones are looked for among hundreds of thousands of a large run.
frames_by_step = Index(
    "frames_by_step", frames.c.attempt_id, frames.c.last_step, sqlite_where=text("whole = 1")
)
# Where each series of an attempt is: tile `place // TILE`, record `place % TILE` (chunks.py).
series = Table(
    "series",
    metadata,
    Column("attempt_id", _KEY, ForeignKey("attempts.id"), primary_key=True),
    # "tensor" (by FQN) or "scalar" (by the name that was logged)
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("place", Integer, nullable=False),
    sqlite_with_rowid=False,
)
chunks = Table(
    "chunks",
    metadata,
    Column("id", _KEY, primary_key=True),
    Column("attempt_id", _KEY, ForeignKey("attempts.id"), nullable=False),
    # "tensor" or "scalar"; of the thinner tiers "tensor/16" and so on (tiers.py)
    Column("kind", Text, nullable=False),
    Column("tile", Integer, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("layout", Text, nullable=False),
    Column("blob", LargeBinary, nullable=False),
    UniqueConstraint("attempt_id", "kind", "tile", "first_step"),
)
# What later steps of an attempt need of those whose frames were forgotten (history/lasting.py).
lasting = Table(
    "lasting",
    metadata,
    Column("attempt_id", _KEY, ForeignKey("attempts.id"), primary_key=True),
    Column("blob", LargeBinary, nullable=False),
)
# What a run is compared with, and what later steps need of the comparison of earlier ones (references.py).
comparisons = Table(
    "comparisons",
    metadata,
    Column("run_id", _KEY, ForeignKey("runs.id"), primary_key=True),
    Column("document", Text, nullable=False),
)
findings = Table(
    "findings",
    metadata,
    Column("run_id", _KEY, ForeignKey("runs.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("attempt", Text, nullable=False),
    Column("detector", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    Index("findings_by_status", "run_id", "status", "severity"),
)
