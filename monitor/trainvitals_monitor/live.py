"""
A run in memory: its engine, and what of it is not in the store yet.

The monitor's worker is the only one that changes it (`take`, `save`, `saved`); readers hold `lock` while they copy.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from typing import Any

from trainvitals.errors import BadFrame
from trainvitals_monitor.attempt_at_rest import AttemptAtRest
from trainvitals_monitor.counters import Counters
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Finding
from trainvitals_monitor.forgetting import forget
from trainvitals_monitor.header import validate_header
from trainvitals_monitor.hearing import Hearing
from trainvitals_monitor.ingest import Arrival
from trainvitals_monitor.models import AttemptOut, RunOut
from trainvitals_monitor.overrides import Tuning
from trainvitals_monitor.packed import unpack_frame
from trainvitals_monitor.placing import Places
from trainvitals_monitor.received import Received
from trainvitals_monitor.references import Beside, References
from trainvitals_monitor.refusal import Refusal
from trainvitals_monitor.snapshot import run_out
from trainvitals_monitor.store import Store
from trainvitals_monitor.writing import StoredFrame, Writing

_LOG = logging.getLogger("trainvitals.monitor")
_REPLY_SUBJECTS = 64
"""Subjects of a finding that the answer to a frame names; the page has them all."""
_SUMMARY_EVERY = 64
_EVER = 1 << 62

Sender = tuple[str, int]
"""An attempt's key and a rank of it."""


class LiveRun:
    """One run. Made empty for a new one, or by `from_store`."""

    def __init__(
        self,
        name: str,
        *,
        page: str,
        counters: Counters,
        references: References,
        tuning: Tuning | None = None,
        keep_steps: int | None = None,
    ) -> None:
        self.name = name
        self.page = page
        self.lock = threading.Lock()
        self.engine = Engine(name, tuning=tuning)
        self._beside = Beside(name, references)
        self._beside_stored: dict[str, Any] | None = None
        self.id: int | None = None
        self.closed_at: float | None = None
        self.heard_at: float | None = None
        self.hearing = Hearing()
        self.frames = 0
        self.frame_bytes = 0
        self.frames_spooled = 0
        self.waiting: dict[Sender, int] = {}
        """Frames that wait on trainers' disks, by who last said so; nobody who has none."""
        self._counters = counters
        self._keep_steps = keep_steps
        self._attempts: dict[str, AttemptAtRest] = {}
        self._saves = 0
        self._changed: list[Finding] = []
        self._told: dict[str, Finding] = {}
        self._answers: dict[bool, bytes] = {}

    @classmethod
    def from_store(
        cls,
        name: str,
        store: Store,
        *,
        page: str,
        counters: Counters,
        references: References,
        tuning: Tuning | None = None,
        keep_steps: int | None = None,
    ) -> LiveRun | None:
        """
        The run as the last transaction left it; None if the store has no such run.

        Its frames go through the engine once more: 2 ms for each of the last 256 steps and of every rank.
        """
        row = store.run(name)
        if row is None:
            return None
        live = cls(
            name,
            page=page,
            counters=counters,
            references=references,
            tuning=tuning,
            keep_steps=keep_steps,
        )
        live.id = row["id"]
        by_id = {}
        for stored in store.attempts(row["id"]):
            attempt = AttemptAtRest(
                stored["key"], stored["world_size"], stored["started_at"], stored["id"], stored["judged_through"]
            )  # fmt: skip
            live._attempts[attempt.key] = by_id[stored["id"]] = attempt
            floors = {row["rank"]: row["floor"] for row in store.floors(stored["id"])}
            attempt.ranks = {rank: Received(floor) for rank, floor in floors.items()}
            live.engine.history.forgot(attempt.key, floors)
            attempt.places.tensors = store.places(stored["id"], "tensor")
            attempt.places.scalars = store.places(stored["id"], "scalar")
            live.engine.history.restore(attempt.key, store.lasting(stored["id"]))
        # Frames and what follows from them are written together: what is there has been judged, all of it.
        live.engine.restore(store.findings(row["id"]), dict.fromkeys(live._attempts, _EVER))
        for frame in store.frames(row["id"]):
            live._give_again(by_id[frame.attempt_id], frame)
        live.engine.restore((), {})
        live._beside.restore(live.engine, store.comparison(row["id"]))
        live.engine.drain_changes()
        live.engine.drain_pieces()
        said = live.engine.summary()
        live.hearing.last = min(live.hearing.last, said.get("last_seen", live.hearing.last))
        if said.get("phase") == "closed":
            live.closed_at = time.monotonic()
        return live

    def _give_again(self, attempt: AttemptAtRest, frame: StoredFrame) -> None:
        received = attempt.ranks.setdefault(frame.rank, Received())
        received.above.add(frame.seq)
        received.digested |= frame.digested
        try:
            plain, tables = unpack_frame(frame.blob)
            self.engine.ingest(validate_header(plain), tables)
        except Exception:  # noqa: BLE001 - logged
            # Whatever is wrong with one frame, the others are the run, and other runs share the transaction.
            _LOG.exception("a stored frame of run %r can't be read any more", self.name)
            self._counters.errors["read-back"] += 1
            lost = {frame.rank: max(received.floor, frame.seq + 1)}
            self.engine.history.forgot(attempt.key, lost)

    # -- the worker's side -------------------------------------------------------------------------------------------

    def take(self, arrival: Arrival) -> bool:
        """
        Judge a frame; False if it came before. Nothing is stored yet.

        Raises Refusal, and changes nothing, when the frame contradicts earlier ones.
        """
        header = arrival.header
        with self.lock:
            try:
                is_new = self.engine.check(header, arrival.tables)
            except BadFrame as error:
                raise Refusal("conflict", str(error)) from error
            attempt = self._attempts.get(header.attempt)
            received = attempt.ranks.get(header.rank) if attempt else None
            self.hearing.hear(header.attempt, header.rank)
            if not is_new or (received and received.has(header.seq)):
                return False
            if attempt is None:
                self._begin(header.reference)
            self._judge(arrival)
            if attempt is None:
                attempt = AttemptAtRest(header.attempt, header.world_size, header.started_at)
                self._attempts[header.attempt] = attempt
            attempt.ranks.setdefault(header.rank, Received()).above.add(header.seq)
            attempt.frames.append(arrival)
            self.heard_at = time.monotonic()
            self.closed_at = self.heard_at if header.phase == "closed" else None
        return True

    def waited(self, sender: Sender, num_behind: int | None) -> None:
        """Whether a frame had waited on a trainer's disk, and how many wait behind it; None: it had not."""
        with self.lock:
            self.frames_spooled += num_behind is not None
            self.waiting.pop(sender, None)
            if num_behind:
                self.waiting[sender] = num_behind

    def _begin(self, reference: str) -> None:
        try:
            self._beside.begin(self.engine, reference)
        except Exception:  # noqa: BLE001 - logged
            # Whatever is wrong with a stored run, another one is taken and judged without it.
            _LOG.exception("run %r can't be compared with %r", self.name, reference)
            self._counters.errors["judge"] += 1

    def _judge(self, arrival: Arrival) -> None:
        try:
            self.engine.ingest(arrival.header, arrival.tables)
        except Exception:  # noqa: BLE001 - logged
            # The frame is sound (it was checked), so this is a fault of ours: keep the frame, and say so.
            _LOG.exception("the engine failed on a frame of run %r", self.name)
            self._counters.errors["judge"] += 1

    @property
    def is_empty(self) -> bool:
        """Whether no frame of the run was ever taken."""
        return not self._attempts

    def save(self, writing: Writing) -> None:
        """Write what is new since the last `saved`, within the caller's transaction."""
        with self.lock:
            self._changed += self.engine.drain_changes()
            pieces = self.engine.drain_pieces()
        if self.id is None:
            self.id = writing.add_run(self.name, 0.0)
        for attempt in self._attempts.values():
            attempt.save(writing, self.id)
        writing.put_findings(self.id, self._changed)
        beside = self._beside.document(self.engine)
        if beside is not None and beside != self._beside_stored:
            self._beside_stored = beside
            writing.put_comparison(self.id, beside)
        for piece in pieces:
            if piece.attempt in self._attempts:
                self._attempts[piece.attempt].save_piece(writing, piece)
        for attempt in self._attempts.values():
            forget(writing, attempt, self.engine.history)
            attempt.thin(writing, self.engine.history, self._keep_steps)
        if pieces or self._saves % _SUMMARY_EVERY == 0 or self.closed_at is not None:
            self.save_summary(writing)

    def save_summary(self, writing: Writing) -> None:
        """What readers are told while the run is not in memory; nothing is judged by it."""
        if self.id is None:
            return
        out = self.snapshot()
        writing.put_summary(self.id, out.last_seen, out.model_dump_json())
        for key, mark in self.engine.judged_through.items():
            attempt = self._attempts.get(key)
            if attempt is not None and attempt.id is not None and attempt.mark != mark:
                attempt.mark = mark
                writing.put_mark(attempt.id, mark)

    def saved(self) -> None:
        """The transaction holds."""
        for attempt in self._attempts.values():
            attempt.frames = []
        for finding in self._changed:
            said = replace(finding, last_step=0)
            if self._told.get(finding.id) != said:
                self._told[finding.id] = said
                self._answers = {}
        self._changed = []
        self._saves += 1

    def answer(self, *, duplicate: bool) -> bytes:
        """The JSON that a frame is answered with; made anew when a finding has changed in more than its last step."""
        if duplicate not in self._answers:
            with self.lock:
                found = [finding.as_json() for finding in self.engine.open_findings]
            for finding in found:
                finding["subjects"] = finding["subjects"][:_REPLY_SUBJECTS]
            reply = {"accepted": True, "duplicate": duplicate, "findings": found, "page": self.page}
            self._answers[duplicate] = json.dumps(reply).encode()
        return self._answers[duplicate]

    def snapshot(self) -> RunOut:
        """The run in short."""
        with self.lock:
            return run_out(self.engine, self.page, self.hearing)

    def stored_as(self, key: str) -> tuple[int, Places] | None:
        """The store's number of an attempt, and where its series are; None if there is no such attempt."""
        attempt = self._attempts.get(key)
        return (attempt.id, attempt.places) if attempt and attempt.id is not None else None

    def judged_through(self, key: str) -> int:
        """The last judged step of an attempt, also of one that has left memory."""
        with self.lock:
            judged = self.engine.judged_through.get(key, -1)
        attempt = self._attempts.get(key)
        return max(judged, attempt.mark if attempt else -1)

    def attempts(self) -> list[AttemptOut]:
        """Every attempt, oldest first."""
        with self.lock:
            known = list(self._attempts.values())
            marks = self.engine.judged_through
        return [
            AttemptOut(
                attempt=one.key,
                world_size=one.world_size,
                started_at=one.started_at,
                judged_through=marks.get(one.key, one.mark),
            )
            for one in sorted(known, key=lambda one: one.started_at)
        ]
