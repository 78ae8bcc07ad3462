"""
Frames from a folder through the engine: what `trainvitals replay` and `check` judge with.

A folder holds frames as the agent writes them (`<run>/<attempt>/rank<r>-<seq>.safetensors`), of one run or several, at
any depth; who speaks is read from the frames, not from the names of the folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from trainvitals.errors import BadFrame
from trainvitals.frame import MAX_FRAME_BYTES, Header, decode
from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.detectors.detector import Detector
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.header import validate_header
from trainvitals_monitor.history import Reference
from trainvitals_monitor.history.rank import Tables
from trainvitals_monitor.overrides import Tuning

SUFFIX = ".safetensors"


def replay(
    folder: Path,
    detectors: Sequence[type[Detector]] = DETECTORS,
    tuning: Tuning | None = None,
    make: Callable[[str, Sequence[type[Detector]], Tuning | None], Engine] = Engine,
    reference: Reference | None = None,
) -> list[Engine]:
    """
    One engine per run in the folder, by name, each with all its frames judged; `make` makes it (of another class).
    `reference`: a good run that each is compared with.

    Raises BadFrame, which names the file, when a file is no frame or contradicts another, and when there is none.
    """
    files = frame_files(folder)
    if not files:
        raise BadFrame(
            f"no frames in {folder}: expected files such as <run>/<attempt>/rank0-00000000{SUFFIX}, "
            f"as attach(monitor={str(folder)!r}) writes them"
        )
    engines: dict[str, Engine] = {}
    for path in _in_order(files):
        header, tables = _read(path)
        if header.run not in engines:
            engines[header.run] = make(header.run, detectors, tuning)
            if reference is not None:
                engines[header.run].history.compare_with(reference)
        engine = engines[header.run]
        try:
            engine.ingest(header, tables)
        except BadFrame as error:
            raise BadFrame(f"{path}: {error}") from error
    for engine in engines.values():
        engine.finish()
    return [engines[run] for run in sorted(engines)]


def frame_files(folder: Path) -> list[Path]:
    """Every frame's file under the folder, in the order of their paths; what is hidden or still being written is not."""
    found = folder.rglob(f"*{SUFFIX}") if folder.is_dir() else [folder] * folder.is_file()
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def findings_json(engines: Iterable[Engine]) -> list[dict[str, Any]]:
    """Every finding that was ever opened, as `replay --json` prints them."""
    return [finding.as_json() for engine in engines for finding in engine.findings]


def is_bad(engines: Iterable[Engine]) -> bool:
    """Whether a warning or worse was ever opened: the exit status."""
    worst = Severity.WARNING.rank
    return any(one.severity.rank <= worst for engine in engines for one in engine.findings)


def _in_order(files: Iterable[Path]) -> list[Path]:
    """Runs by name, attempts by their beginning, within them frames as they were made, ranks side by side."""
    places: dict[Path, tuple[str, str, int, int]] = {}
    begun: dict[tuple[str, str], float] = {}
    for path in files:
        header, _ = _read(path)
        places[path] = (header.run, header.attempt, header.seq, header.rank)
        attempt = places[path][:2]
        begun[attempt] = min(header.started_at, begun.get(attempt, header.started_at))
    return sorted(
        places, key=lambda path: (places[path][0], begun[places[path][:2]], *places[path])
    )


def _read(path: Path) -> tuple[Header, Tables]:
    try:
        if path.stat().st_size > MAX_FRAME_BYTES:
            raise BadFrame(f"larger than a frame may be ({MAX_FRAME_BYTES} bytes)")
        header, tables = decode(path.read_bytes())
        return validate_header(header), tables
    except (BadFrame, OSError) as error:
        raise BadFrame(f"{path}: {error}") from error
