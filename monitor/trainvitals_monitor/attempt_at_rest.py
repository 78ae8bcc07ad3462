"""
One attempt of a run at rest: what of it is in the store, and what is about to be.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trainvitals_monitor.history import AttemptHistory, RunHistory
from trainvitals_monitor.history.lasting import lasting_of
from trainvitals_monitor.ingest import Arrival
from trainvitals_monitor.packed import pack_frame
from trainvitals_monitor.pieces import Piece
from trainvitals_monitor.placing import Places
from trainvitals_monitor.received import Received
from trainvitals_monitor.retention import is_lasting
from trainvitals_monitor.thinning import AttemptThinning
from trainvitals_monitor.writing import StoredFrame, Writing


@dataclass
class AttemptAtRest:
    """
    `id`: the store's number, None before it is written. `mark`: judged through this step, as the store says. `frames`:
    those to be written. `forgotten_through`: frames up to this step have been let go of; `lasting_through`: what later
    steps need of those up to here is written down, `has_lasting_end`: of all of an attempt that has ended. The monitor's
    worker is the only one that changes it.
    """

    key: str
    world_size: int
    started_at: float
    id: int | None = None
    mark: int = -1
    ranks: dict[int, Received] = field(default_factory=dict)
    frames: list[Arrival] = field(default_factory=list)
    places: Places = field(default_factory=Places)
    forgotten_through: int = -1
    lasting_through: int = -1
    has_lasting_end: bool = False
    _thinning: AttemptThinning | None = None

    def save(self, writing: Writing, run_id: int) -> None:
        """Write the frames that wait, within the caller's transaction."""
        if self.id is None:
            self.id = writing.add_attempt(run_id, self.key, self.world_size, self.started_at)
        writing.add_frames([self._stored(self.id, arrival) for arrival in self.frames])

    def save_piece(self, writing: Writing, piece: Piece) -> None:
        """Write a cut of the series, once the attempt itself is in the store."""
        if self.id is None:
            return
        self.places.add(piece)
        writing.put_places(self.id, "tensor", self.places.fresh_tensors)
        writing.put_places(self.id, "scalar", self.places.fresh_scalars)
        chunk = self.places.tensor_chunk(piece)
        if chunk is not None:
            writing.put_chunk(self.id, "tensor", chunk)
        for tile, chunk in self.places.scalar_chunks(piece):
            writing.put_chunk(self.id, "scalar", chunk, tile)

    def save_lasting(self, writing: Writing, history: AttemptHistory, through: int) -> None:
        """Write down what is known from steps up to `through`, before their frames are forgotten; and all at the end."""
        is_written = through <= self.lasting_through
        if self.id is None or (is_written and (self.has_lasting_end or not history.ended)):
            return
        writing.put_lasting(self.id, lasting_of(history, through + 1))
        self.lasting_through, self.has_lasting_end = through, history.ended

    def thin(self, writing: Writing, history: RunHistory, keep_steps: int | None) -> None:
        """Go on with the thinner tiers of its series, as far as steps rest in chunks."""
        kept = history.get(self.key)
        if self.id is None or kept is None:
            return
        if self._thinning is None:
            self._thinning = AttemptThinning(self.id, keep_steps)
        self._thinning.go_on(writing, kept.cut_through, self.places.num_tiles)

    def _stored(self, attempt_id: int, arrival: Arrival) -> StoredFrame:
        header = arrival.header
        received = self.ranks[header.rank]
        digested = "digests" in arrival.tables and not received.digested
        received.digested |= digested
        return StoredFrame(
            attempt_id=attempt_id,
            rank=header.rank,
            seq=header.seq,
            last_step=arrival.last_step,
            lasting=is_lasting(header, arrival.tables, digested),
            digested=digested,
            blob=pack_frame(arrival.plain, arrival.tables),
        )
