"""
The store: where it may be, what a transaction holds, and that series come back as they went in.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError, OperationalError

from trainvitals_monitor import schema
from trainvitals_monitor.chunks import TILE, Bools, Floats, pack
from trainvitals_monitor.filesystem import file_system
from trainvitals_monitor.findings import Finding, Severity
from trainvitals_monitor.packed import pack_frame, unpack_frame
from trainvitals_monitor.pieces import Piece
from trainvitals_monitor.placing import Places
from trainvitals_monitor.store import Store
from trainvitals_monitor.store_file import StoreUnusable, resolve_path
from trainvitals_monitor.unpacking import unpack, unpack_record
from trainvitals_monitor.writing import StoredFrame


def _frame(attempt_id: int, seq: int = 0) -> StoredFrame:
    return StoredFrame(
        attempt_id=attempt_id,
        rank=0,
        seq=seq,
        last_step=seq,
        lasting=False,
        digested=False,
        blob=b"blob",
    )


def _finding(**fields: object) -> Finding:
    plain = {
        "id": "non-finite-1",
        "run": "run",
        "attempt": "a",
        "detector": "non-finite",
        "severity": Severity.CRITICAL,
        "group": "w",
        "subjects": ["w"],
        "first_step": 3,
        "last_step": 3,
        "message": "NaN",
        "advice": "look",
        "evidence": [{"fqn": "w", "norm": "nan"}],
    }
    return Finding(**{**plain, **fields})  # type: ignore[arg-type]


def _attempt(store: Store) -> tuple[int, int]:
    with store.writing() as writing:
        run_id = writing.add_run("run", 1.0)
        return run_id, writing.add_attempt(run_id, "a", 1, 1.0)


# -- where it may be -----------------------------------------------------------------------------------------------


def test_a_folder_a_file_and_a_url_are_all_places_for_a_store(tmp_path: Path) -> None:
    """A folder gets a file of its own; .sqlite, .db and sqlite:/// name the file."""
    assert resolve_path(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b" / "monitor.sqlite"
    assert resolve_path(str(tmp_path / "x.sqlite")) == tmp_path / "x.sqlite"
    assert resolve_path(f"sqlite:///{tmp_path / 'y.db'}") == tmp_path / "y.db"


@pytest.mark.parametrize(
    "where", ["", "postgresql://host/db", "sqlite://", "sqlite:///:memory:", "://"]
)
def test_what_is_no_place_is_refused_in_one_line(where: str) -> None:
    """Other databases, memory and nonsense are not taken for a folder."""
    with pytest.raises(StoreUnusable) as refused:
        resolve_path(where)
    assert "\n" not in str(refused.value)


def test_a_path_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    """A file where a folder should be."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnusable, match=r"store .*file"):
        Store(str(tmp_path / "file" / "store"))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Somebody else's file is left as it is."""
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"something else " * 1000)
    with pytest.raises(StoreUnusable, match="not a database"):
        Store(str(path))
    assert path.read_bytes() == b"something else " * 1000


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """What we don't understand we don't write into."""
    Store(str(tmp_path)).close()
    with sqlite3.connect(tmp_path / "monitor.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {schema.SCHEMA + 1}")
    connection.close()
    with pytest.raises(StoreUnusable, match="newer trainvitals"):
        Store(str(tmp_path))


def test_a_store_from_before_an_index_gets_it(tmp_path: Path) -> None:
    """Without it, old frames are looked for among all."""
    store = Store(str(tmp_path))
    path = store.path
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("drop index frames_by_step")
    store = Store(str(tmp_path))
    store.close()
    with sqlite3.connect(path) as connection:
        plan = connection.execute(
            "explain query plan select id from frames where attempt_id = 1 and whole = 1 "
            "and last_step <= 9 order by last_step limit 3"
        ).fetchall()
    assert "frames_by_step" in str(plan)


def test_two_monitors_cannot_share_a_store(tmp_path: Path) -> None:
    """The second is told so at once, and the first is not disturbed; when it has gone the store is free."""
    store = Store(str(tmp_path))
    code = "import sys; from trainvitals_monitor.store import Store; Store(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert "another monitor is using it" in done.stderr
    _attempt(store)
    store.close()
    Store(str(tmp_path)).close()


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /home rw - nfs4 server:/home rw
24 22 0:22 / /home/me/local rw - xfs /dev/vdb rw
25 22 0:23 / /mnt/my\\040share rw master:1 - cifs //server/share rw
26 22 0:24 / /lus rw - lustre x@tcp:/y rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/store", "ext4"),
        ("/home/you/store", "nfs4"),
        ("/home/me/local/store", "xfs"),
        ("/homestead", "ext4"),
        ("/mnt/my share/deep/er", "cifs"),
        ("/lus", "lustre"),
    ],
)
def test_the_mount_that_covers_a_path_says_its_file_system(path: str, kind: str) -> None:
    """The longest mount point wins, escapes are read, and a like-named sibling is not meant."""
    assert file_system(Path(path), MOUNTS) == kind


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's locks do not hold there; the message names the file system and what to do."""
    monkeypatch.setattr("trainvitals_monitor.store_file.file_system", lambda _path: "nfs4")
    with pytest.raises(StoreUnusable, match=r"nfs4.*local disk"):
        Store(str(tmp_path))


# -- transactions --------------------------------------------------------------------------------------------------


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    """What a failing body wrote before is not there."""
    store = Store(str(tmp_path))
    run_id, attempt_id = _attempt(store)

    def half_a_transaction() -> None:
        with store.writing() as writing:
            writing.put_findings(run_id, [_finding()])
            writing.add_frames([_frame(attempt_id), _frame(attempt_id)])

    with pytest.raises(IntegrityError):
        half_a_transaction()
    assert list(store.frames(run_id)) == []
    assert store.findings(run_id) == []
    store.close()


def test_a_frame_is_there_once(tmp_path: Path) -> None:
    """(attempt, rank, seq) is unique in the table itself."""
    store = Store(str(tmp_path))
    _, attempt_id = _attempt(store)
    with store.writing() as writing:
        writing.add_frames([_frame(attempt_id)])
    with pytest.raises(IntegrityError), store.writing() as writing:
        writing.add_frames([_frame(attempt_id)])
    store.close()


def test_a_floor_only_rises(tmp_path: Path) -> None:
    """Frames are forgotten some at a time, by step: a later part may hold a lower number."""
    store = Store(str(tmp_path))
    _, attempt_id = _attempt(store)
    for floor in (7, 6, 9):
        with store.writing() as writing:
            writing.put_floor(attempt_id, 0, floor)
        assert [row["floor"] for row in store.floors(attempt_id)] == [max(7, floor)]
    store.close()


def test_frames_and_findings_come_back_as_they_were(tmp_path: Path) -> None:
    """Frames in each rank's order, however they came; of a finding the last version, whole."""
    store = Store(str(tmp_path))
    run_id, attempt_id = _attempt(store)
    with store.writing() as writing:
        writing.add_frames([_frame(attempt_id, seq) for seq in (2, 0, 1)])
        writing.put_findings(run_id, [_finding(), _finding(id="other", first_step=1)])
    changed = _finding(subjects=["w", "v"]).resolved()
    with store.writing() as writing:
        writing.put_findings(run_id, [changed])
    store.close()
    again = Store(str(tmp_path))
    assert [frame.seq for frame in again.frames(run_id)] == [0, 1, 2]
    assert again.findings(run_id) == [_finding(id="other", first_step=1), changed]
    again.close()


def test_the_size_counts_the_log(tmp_path: Path) -> None:
    """What was just written is in the log, and counts."""
    store = Store(str(tmp_path))
    _, attempt_id = _attempt(store)
    before = store.size_bytes()
    with store.writing() as writing:
        frame = StoredFrame(
            attempt_id=attempt_id,
            rank=0,
            seq=0,
            last_step=0,
            lasting=False,
            digested=False,
            blob=bytes(1 << 20),
        )
        writing.add_frames([frame])
    assert store.size_bytes() > before + (1 << 20)
    store.close()


# -- chunks --------------------------------------------------------------------------------------------------------

_VALUES = st.one_of(
    st.floats(width=32, allow_nan=True, allow_infinity=True),
    st.floats(allow_nan=False),
    st.integers(0, 1 << 40).map(float),
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_packed_series_is_the_series(data: st.DataObject) -> None:
    """Any values, looks and gaps come back: steps exactly, counts exactly, floats to single precision."""
    steps = np.array(
        sorted(data.draw(st.sets(st.integers(0, 300), min_size=1, max_size=20))), np.int64
    )
    tensors = data.draw(st.sampled_from([1, 2, TILE, TILE + 1]))
    size = len(steps) * tensors
    statistics: dict[str, tuple[Floats, Bools]] = {}
    for name in ("norm", "changed", "low"):
        drawn = data.draw(st.lists(_VALUES, min_size=size, max_size=size))
        looks = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
        shape = (len(steps), tensors)
        statistics[name] = (np.array(drawn).reshape(shape), np.array(looks).reshape(shape))
    chunk = pack(steps, statistics)
    if chunk is None:
        assert not any(seen.any() for _, seen in statistics.values())
        return
    for tensor in range(tensors):
        tile, record = divmod(tensor, TILE)
        blob = chunk.blobs[tile]
        for name, (values, seen) in statistics.items():
            if blob is None:
                assert not seen[:, tensor].any()
                continue
            got_steps, got = unpack(chunk.first_step, chunk.layout, blob, record, name)
            wanted = values[seen[:, tensor], tensor]
            assert got_steps.tolist() == steps[seen[:, tensor]].tolist()
            np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=0)


def test_counts_are_kept_exactly() -> None:
    """A count that single precision could not hold is not rounded."""
    counts = np.array([[(1 << 24) + 1.0], [(1 << 40) + 1.0]])
    chunk = pack(np.arange(2), {"changed": (counts, np.ones((2, 1), np.bool_))})
    assert chunk is not None
    assert chunk.blobs[0] is not None
    assert (
        unpack(0, chunk.layout, chunk.blobs[0], 0, "changed")[1].tolist() == counts[:, 0].tolist()
    )


def test_what_does_not_change_takes_one_number() -> None:
    """A statistic that is constant per tensor costs 8 bytes, not 128 times as many."""
    values = np.tile(np.arange(5.0), (128, 1))
    chunk = pack(np.arange(128), {"exact": (values, np.ones((128, 5), np.bool_))})
    assert chunk is not None
    assert [len(blob or b"") for blob in chunk.blobs] == [8 * 5]


def test_what_is_looked_at_rarely_takes_little() -> None:
    """Beside a statistic of every step, one of every sixteenth takes what its values take, not as much again."""
    steps, rng = np.arange(128), np.random.default_rng(0)
    often = (1 + rng.random((128, TILE)), np.ones((128, TILE), np.bool_))
    rarely = (rng.random((128, TILE)), np.tile((steps % 16 == 0)[:, None], TILE))
    alone, both = pack(steps, {"norm": often}), pack(steps, {"norm": often, "low": rarely})
    assert alone is not None
    assert both is not None
    sizes = [sum(len(blob or b"") for blob in chunk.blobs) for chunk in (alone, both)]
    assert sizes[0] < 4 * 128 * TILE
    assert sizes[1] - sizes[0] < 8 * 8 * TILE


def test_a_chunk_without_the_statistic_has_nothing_of_it() -> None:
    """An unknown name is an empty series."""
    chunk = pack(np.arange(2), {"norm": (np.ones((2, 1)), np.ones((2, 1), np.bool_))})
    assert chunk is not None
    assert chunk.blobs[0] is not None
    steps, values = unpack(0, chunk.layout, chunk.blobs[0], 0, "low")
    assert (len(steps), len(values)) == (0, 0)


def test_a_tensor_that_came_later_has_nothing_in_chunks_of_before() -> None:
    """The tile was shorter then, whatever its encoding; what the later chunk has is told."""
    rng = np.random.default_rng(0)
    for looks in (np.ones((10, TILE)), rng.integers(0, 2, (10, TILE))):
        values, seen = rng.random((10, TILE)), looks.astype(np.bool_)
        early = pack(np.arange(10), {"norm": (values[:, :3], seen[:, :3])})
        later = pack(np.arange(10, 20), {"norm": (values, seen)})
        assert early is not None
        assert later is not None
        assert early.layout == later.layout
        both = [(0, early.blobs[0] or b""), (10, later.blobs[0] or b"")]
        for record, wanted in ((2, both), (3, both[1:]), (TILE - 1, both[1:])):
            alone = [unpack(first, later.layout, blob, record, "norm") for first, blob in wanted]
            (steps, found), (unknown, _) = unpack_record(
                later.layout, both, record, ("norm", "low")
            )
            assert steps.tolist() == [step for one in alone for step in one[0]]
            assert found.tolist() == [value for one in alone for value in one[1]]
            assert len(unknown) == 0
        assert len(unpack(0, early.layout, both[0][1], 3, "norm")[0]) == 0


def test_a_read_that_can_not_open_the_file_fails_as_all_others_do(tmp_path: Path) -> None:
    """Not with the driver's own error, which nobody waits for."""
    store = Store(str(tmp_path))
    store.close()
    store.path.unlink()
    store.path.mkdir()
    for read in (store.runs, lambda: store.chunks(1, "tensor", 0, 0, 1)):
        with pytest.raises(OperationalError, match="unable to open database file"):
            read()


def test_chunks_are_found_by_attempt_tile_and_range(tmp_path: Path) -> None:
    """Only those that overlap the range, in order; one of the same start is replaced."""
    store = Store(str(tmp_path))
    _, attempt_id = _attempt(store)
    tensors = TILE + 1
    seen = np.ones((10, tensors), np.bool_)
    with store.writing() as writing:
        for first in (20, 0, 10, 10):
            chunk = pack(
                np.arange(first, first + 10), {"norm": (np.full((10, tensors), first), seen)}
            )
            assert chunk is not None
            writing.put_chunk(attempt_id, "tensor", chunk)
    for tile in (0, 1):
        rows = store.chunks(attempt_id, "tensor", tile, 5, 15)
        assert [row.first_step for row in rows] == [0, 10]
    assert store.chunks(attempt_id, "scalar", 0, 5, 15) == []
    assert store.chunks(attempt_id, "tensor", 2, 5, 15) == []
    store.close()


def test_a_series_keeps_its_place_when_tensors_are_numbered_anew() -> None:
    """After a restart the engine may know tensors in another order, and new ones between: records stay where they are."""
    places = Places()
    first = _piece(["a", "b"], [1, 2])
    places.add(first)
    assert places.fresh_tensors == {"a": 0, "b": 1}
    again = Places(tensors=dict(places.tensors), scalars=dict(places.scalars))
    second = _piece(["c", "b", "a"], [3, 4])
    again.add(second)
    assert (again.fresh_tensors, again.fresh_scalars) == ({"c": 2}, {})
    for piece, own in ((first, places), (second, again)):
        chunk = own.tensor_chunk(piece)
        assert chunk is not None
        for number, fqn in enumerate(piece.fqns):
            place = again.of_tensor(fqn)
            assert place is not None
            blob = chunk.blobs[place[0]]
            assert blob is not None
            steps, values = unpack(chunk.first_step, chunk.layout, blob, place[1], "norm")
            assert steps.tolist() == piece.steps.tolist()
            assert values.tolist() == piece.statistics["norm"][0][:, number].tolist()


def _piece(fqns: list[str], steps: list[int]) -> Piece:
    values = np.add.outer(np.array(steps, float), 100.0 * np.arange(len(fqns)))
    return Piece(
        attempt="a",
        steps=np.array(steps),
        fqns=fqns,
        statistics={"norm": (values, np.ones(values.shape, np.bool_))},
        scalars={"loss": (np.array(steps), np.ones(len(steps)))},
    )


# -- frames at rest ------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_packed_frame_is_the_frame(data: st.DataObject) -> None:
    """Header and columns come back bit by bit: NaN, -0.0, extremes, counts, constants and empty columns."""
    length = data.draw(st.integers(0, 5))
    floats = st.floats() | st.just(-0.0)
    columns: dict[str, Any] = {
        "tensor": data.draw(_column(st.integers(-1, 2**31 - 1), np.int32, length)),
        "step": data.draw(_column(st.integers(0, 2**62), np.int64, length)),
        "norm": data.draw(_column(floats, np.float64, length)),
        "exact": data.draw(_column(st.integers(0, 1), np.uint8, length)),
    }
    digests = {"digest": data.draw(_column(st.integers(0, 2**64 - 1), np.uint64, length))}
    header = {"run": data.draw(st.text(max_size=5)), "seq": 3}
    got_header, got = unpack_frame(pack_frame(header, {"values": columns, "digests": digests}))
    assert got_header == header
    for table, wanted in (("values", columns), ("digests", digests)):
        for name, column in wanted.items():
            assert got[table][name].dtype == column.dtype
            assert got[table][name].tobytes() == column.tobytes()


def _column(values: st.SearchStrategy[Any], dtype: Any, length: int) -> st.SearchStrategy[Any]:
    counting = st.integers(0, 100).map(lambda first: list(range(first, first + length)))
    same = values.map(lambda value: [value] * length)
    drawn = st.lists(values, min_size=length, max_size=length) | same
    if np.dtype(dtype).itemsize >= 4:
        drawn |= counting
    return drawn.map(lambda rows: np.array(rows, dtype))


def test_a_packed_frame_does_not_repeat_what_its_columns_repeat() -> None:
    """A step, an index and a flag for 2,000 tensors take some bytes, not 26,000."""
    columns: dict[str, Any] = {
        "tensor": np.arange(2000, dtype=np.int32),
        "step": np.full(2000, 7, np.int64),
        "exact": np.ones(2000, np.uint8),
    }
    assert len(pack_frame({}, {"values": columns})) < 300


def test_a_packed_frame_keeps_counts_in_as_many_bytes_as_they_need() -> None:
    """Counts up to 4096 take two bytes each and come back as they were; negative numbers are left alone."""
    counts = np.arange(2000, dtype=np.int64) * 7 % 4097
    packed = pack_frame({}, {"updates": {"changed": counts, "looked": counts - 1}})
    assert len(packed) < 2000 * (2 + 8) + 200
    _, tables = unpack_frame(packed)
    for name, wanted in (("changed", counts), ("looked", counts - 1)):
        assert tables["updates"][name].dtype == np.int64
        assert tables["updates"][name].tolist() == wanted.tolist()
