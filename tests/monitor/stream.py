"""
A made-up run, told in facts: for tests of detectors and of the engine.

A `Stream` plays the agents of one run. It makes real frames (encoded and decoded as on the wire) and lets the real
engine judge them; nothing is mocked::

    stream = Stream(["layers.0.w", tensor("layers.0.bias", kind="buffer", shape=[8])])
    stream.optimizers([["layers.0.w"]])
    for _ in range(3):
        stream.step(values={"*": 1.0}, updates={"layers.0.w": 0.01}, loss=2.0, lr=1e-3)
    stream.slot("layers.0.bias", "object", "storage", outlived=3)    # joins the facts of the step that comes
    stream.step(values={"*": 1.0})
    stream.checkpoint(rows={"layers.0.bias": {"digest": 0, "square_sum": 0.0}})   # after that step: same label
    assert [f.detector for f in stream.findings()] == ["slot-replaced", "checkpoint-stale"]

What can be given per tensor, everywhere: a mapping from FQN ("*": all not named) to a number or to columns. A tensor
that is not named was not looked at. Numbers are short for: values -> norm; updates -> update_norm, all elements
changed; gradients -> grad_norm (None: missing); extremes -> (low, high); counters -> optimizer_step; moments -> both norms; kept -> writes;
balancing -> follows; codes -> both counts; digests -> the digest; rows -> rows_alike; begun -> the root mean square. Columns override these:
`updates={"w": {"update_norm": 0.1, "changed": 3}}`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trainvitals import facts
from trainvitals.contract import Contract
from trainvitals.facts import TABLE_BY_NAME
from trainvitals.fqn import canonical_fqn
from trainvitals.frame import (
    CheckpointSeen,
    Event,
    ForeignParameter,
    Frame,
    Header,
    ModesSeen,
    OptimizersSeen,
    SlotChanged,
    StepsAttempted,
    TensorInfo,
    decode,
    encode,
)
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Finding
from trainvitals_monitor.header import validate_header
from trainvitals_monitor.recording import Recorder

PerTensor = Mapping[str, Any]
NUMEL = 64


def tensor(raw_fqn: str, **fields: Any) -> TensorInfo:
    """A row of the tensor table: a trainable float32 parameter of 64 elements, but for what is given."""
    kind = fields.pop("kind", "param")
    defaults = {
        "index": 0,
        "fqn": canonical_fqn(raw_fqn),
        "raw_fqn": raw_fqn,
        "kind": kind,
        "dtype": "float32",
        "shape": [NUMEL],
        "trainable": kind == "param",
    }
    return TensorInfo(**{**defaults, **fields})


def digest_of(fqn: str, version: int = 0) -> int:
    """A digest to tell tensors apart; the default of `checkpoint` is version 0."""
    return zlib.crc32(f"{fqn}:{version}".encode()) + 1


@dataclass
class _Rank:
    """What one rank has told and not yet sent."""

    seq: int = 1
    rows: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    tensors: list[TensorInfo] = field(default_factory=list)
    checkpoints: int = 0


class Stream:
    """
    One run's facts, step by step. Each method returns the stream's current step where that helps.

    Args:
        tensors: names (a trainable float32 parameter each) or rows made by `tensor(...)`; all ranks have the same,
            but for `by_rank`, which gives a rank's own table (layouts and the like).
        base_step: steps done at attach; the first step is base_step + 1.
        step_offset: the trainer's own number minus ours.
        named_reference: the run that the frames name as the one to compare with.
    """

    def __init__(
        self,
        tensors: Sequence[str | TensorInfo],
        *,
        world_size: int = 1,
        run: str = "run",
        contract: Contract | None = None,
        base_step: int = 0,
        step_offset: int | None = None,
        by_rank: Mapping[int, Sequence[str | TensorInfo]] | None = None,
        named_reference: str = "",
        plan: str = "",
    ) -> None:
        self.run = run
        self.plan = plan
        self.named_reference = named_reference
        self.world_size = world_size
        self.contract = contract or Contract()
        self.frames: list[bytes] = []
        self.reference: Stream | None = None
        """The good run that this one is to be compared with."""
        self.attempt_number = 0
        self._scalars: list[str] = []
        self._begin(tensors, by_rank or {}, base_step, step_offset)

    def _begin(
        self,
        tensors: Sequence[str | TensorInfo],
        by_rank: Mapping[int, Sequence[str | TensorInfo]],
        base_step: int,
        step_offset: int | None,
    ) -> None:
        self.attempt_number += 1
        self.base_step = self.now = base_step
        self.step_offset = step_offset
        self.infos = {rank: _indexed(by_rank.get(rank, tensors)) for rank in range(self.world_size)}
        self._ranks = {rank: _Rank(tensors=list(self.infos[rank])) for rank in self.infos}
        self._waiting: list[tuple[int | None, Event]] = []
        self._inputs: list[tuple[int, dict[str, int]]] = []
        self._draws: list[tuple[int, dict[str, int]]] = []
        self._workers: list[tuple[int, dict[str, int]]] = []
        self._closed = False

    @property
    def attempt(self) -> str:
        """The key of the current attempt."""
        return f"attempt-{self.attempt_number}"

    def index(self, fqn: str, rank: int = 0) -> int:
        """A tensor's index in a rank's table."""
        return next(info.index for info in self.infos[rank] if info.fqn == fqn)

    # -- what happens in a step ------------------------------------------------------------------------------------

    def step(
        self,
        *,
        values: PerTensor | None = None,
        updates: PerTensor | None = None,
        gradients: PerTensor | None = None,
        extremes: PerTensor | None = None,
        counters: PerTensor | None = None,
        moments: PerTensor | None = None,
        decays: PerTensor | None = None,
        kept: PerTensor | None = None,
        routing: PerTensor | None = None,
        feeding: PerTensor | None = None,
        balancing: PerTensor | None = None,
        codes: PerTensor | None = None,
        digests: PerTensor | None = None,
        rows: PerTensor | None = None,
        loss: float | None = None,
        scalars: Mapping[str, float] | None = None,
        lr: float | Sequence[float] | None = None,
        weight_decay: float | Sequence[float] | None = None,
        events: Iterable[Event] = (),
        by_rank: Mapping[int, Mapping[str, PerTensor | None]] | None = None,
        steps: int = 1,
    ) -> int:
        """
        `steps` optimizer steps with these facts, on all ranks; `by_rank` replaces tables of facts for a rank.

        `lr`, `weight_decay`: of all groups, or of each (decay only with a rate). `events`: as frame.py has them, with this step's number (see `coming`).
        Returns the number of the last step.
        """
        tables = {
            "values": values,
            "updates": updates,
            "gradients": gradients,
            "extremes": extremes,
            "counters": counters,
            "moments": moments,
            "decays": decays,
            "kept": kept,
            "routing": routing,
            "feeding": feeding,
            "balancing": balancing,
            "codes": codes,
            "digests": digests,
            "rows": rows,
        }
        logged = {**({} if loss is None else {"loss": loss}), **(scalars or {})}
        events = list(events)
        for _ in range(steps):
            self.flush()
            self.now += 1
            for rank in self._ranks:
                own = {**tables, **(by_rank or {}).get(rank, {})}
                for table, given in own.items():
                    self._tell(rank, table, given or {})
                self._rows(rank, "steps", step=self.now, time=float(self.now), seconds=1.0)
                for row in [row for where, row in self._inputs if where == rank]:
                    self._rows(rank, "inputs", step=self.now, **row)
                for row in [row for where, row in self._draws if where == rank]:
                    self._rows(rank, "draws", step=self.now, **row)
                for row in [row for where, row in self._workers if where == rank]:
                    self._rows(rank, "worker_rounds", step=self.now, **row)
                self._ranks[rank].events += [
                    event for where, event in self._waiting if where in (None, rank)
                ]
                self._ranks[rank].events += events
                if lr is not None:
                    self._rates(rank, lr, weight_decay)
            self._waiting, self._inputs, self._draws, events = [], [], [], []
            self._workers = []
            self.log(**logged)
        return self.now

    @property
    def coming(self) -> int:
        """The number that the next step will have."""
        return self.now + 1

    def beginning(self, digests: PerTensor | None = None, begun: PerTensor | None = None) -> None:
        """Digests of the state that the first step starts from, and what it holds; call it before that."""
        for rank in self._ranks:
            self._tell(rank, "digests", digests or {})
            self._tell(rank, "beginning", begun or {})

    def slot(
        self,
        fqn: str,
        *changes: str,
        before: str = "",
        after: str = "",
        rank: int | None = None,
        untied: Sequence[str] = (),
        outlived: int = -1,
    ) -> None:
        """A SlotChanged that the next step's check finds, on every rank or on one."""
        ranks = self._ranks if rank is None else [rank]
        for one in ranks:
            event = SlotChanged(
                tensor=self.index(fqn, one),
                step=self.coming,
                changes=list(changes),
                before=before,
                after=after,
                untied=[self.index(other, one) for other in untied],
                outlived=outlived,
            )
            self._waiting.append((one, event))

    def optimizers(
        self,
        groups: Sequence[Sequence[str]],
        *,
        names: Sequence[str] = ("AdamW",),
        group_optimizer: Sequence[int] | None = None,
        foreign: Sequence[ForeignParameter] = (),
        masters: bool = False,
        carries: bool = False,
        default_lr: Sequence[float | None] = (),
        rank: int | None = None,
    ) -> None:
        """An OptimizersSeen with the next step: the FQNs that each parameter group holds, on every rank or on one."""
        for each in self._ranks if rank is None else [rank]:
            event = OptimizersSeen(
                step=self.coming,
                optimizers=list(names),
                group_optimizer=list(group_optimizer or [0] * len(groups)),
                group_tensors=[[self.index(fqn, each) for fqn in group] for group in groups],
                foreign=list(foreign),
                masters=masters,
                carries=carries,
                default_lr=list(default_lr),
            )
            self._waiting.append((each, event))

    def draws(self, repeats: int, *, drawn: int = 1, batches: int = 80) -> None:
        """The batches of the next step are again those of the one before, `repeats` times in a row so far."""
        row = {"repeats": repeats, "drawn": drawn, "batches": batches}
        self._draws.extend((rank, row) for rank in self._ranks)

    def workers(self, alike: int, *, rounds: int = 8, workers: int = 2) -> None:
        """The next step is told what a loader's workers gave: in so many rounds one and the same batch."""
        row = {"workers": workers, "rounds": rounds, "alike": alike}
        self._workers.extend((rank, row) for rank in self._ranks)

    def inputs(
        self,
        digests: int | Mapping[int, int] = 0,
        *,
        unsynced: bool = False,
        calls: int = 1,
        group: tuple[int, int] | None = None,
    ) -> None:
        """What the next step's calls were given: one digest for all ranks, or one a rank; `group`: first rank, size."""
        first, size = group or (0, self.world_size)
        for rank in self._ranks:
            digest = digests if isinstance(digests, int) else digests[rank]
            row = {
                "input_digest": digest,
                "calls": calls,
                "unsynced": int(unsynced),
                "group_first": first,
                "group_size": size,
            }
            self._inputs.append((rank, row))

    def modes(
        self,
        evaluating: Sequence[str] = (),
        *,
        dropouts: tuple[int, int] = (0, 0),
        since: int | None = None,
        settled: bool = True,
        untracked: Sequence[str] = (),
        rates: Sequence[float] = (),
        rates_before: Sequence[float] = (),
    ) -> None:
        """
        A ModesSeen with the next step: tensors of modules in eval mode; dropouts in all and in eval mode, their rates and
        those before some became 0.
        """
        for rank in self._ranks:
            event = ModesSeen(
                step=self.coming,
                since=self.coming if since is None else since,
                settled=settled,
                modules=len(self.infos[rank]),
                evaluating=len(evaluating),
                dropouts=dropouts[0],
                dropouts_evaluating=dropouts[1],
                tensors=[self.index(fqn, rank) for fqn in evaluating],
                untracked=[self.index(fqn, rank) for fqn in untracked],
                dropout_rates=list(rates),
                dropout_rates_before=list(rates_before),
            )
            self._waiting.append((rank, event))

    def attempts(
        self, attempts: int, skipped: int, recent_skipped: int, scale_falls: bool | None = False
    ) -> None:
        """A StepsAttempted after the current step, of every rank; the last 20 at most count as recent."""
        for rank in self._ranks:
            self._ranks[rank].events.append(
                StepsAttempted(
                    step=self.now,
                    attempts=attempts,
                    skipped=skipped,
                    recent=min(20, attempts),
                    recent_skipped=recent_skipped,
                    scale_falls=scale_falls,
                )
            )

    def retensor(self, fqn: str, **fields: Any) -> None:
        """A tensor's row, changed (a new dtype, say) and sent again with the next facts."""
        for rank, infos in self.infos.items():
            index = self.index(fqn, rank)
            infos[index] = replace(infos[index], **fields)
            self._ranks[rank].tensors.append(infos[index])

    def add_tensor(self, info: str | TensorInfo) -> None:
        """A tensor that appears in the middle of the attempt."""
        for rank, infos in self.infos.items():
            own = replace(_info(info), index=len(infos))
            infos.append(own)
            self._ranks[rank].tensors.append(own)

    # -- what happens between two steps ----------------------------------------------------------------------------

    def log(self, **scalars: float) -> None:
        """What the trainer logs after the current step."""
        for name, value in scalars.items():
            if name not in self._scalars:
                self._scalars.append(name)
            for rank in self._ranks:
                self._rows(
                    rank, "scalars", scalar=self._scalars.index(name), step=self.now, value=value
                )

    def checkpoint(
        self,
        op: str = "save",
        *,
        keys: Sequence[str] | None = None,
        rows: PerTensor | None = None,
        path: str = "",
        api: str = "torch.save",
        ranks: Sequence[int] = (0,),
        version: int = 0,
        **fields: Any,
    ) -> None:
        """
        A save or load after the current step; by default a true one of all tensors.

        `keys`: the raw keys handed over (default: the raw FQNs); `rows`: per canonical FQN, manifest columns that
        differ from a true entry (digest = live_digest = digest_of(fqn, version), 64 elements, square_sum 1, sketch 0,
        never stale). A key of `rows` may be None: nothing was measured of that entry. `fields`: of CheckpointSeen.
        """
        for rank in ranks:
            self._save(rank, op, keys, rows or {}, version, {"path": path, "api": api, **fields})

    def flush(self) -> None:
        """Send what waits. What is told after this of the same step comes late, as after agent.flush()."""
        for rank in self._ranks:
            self._send(rank, "training")

    def restart(
        self,
        tensors: Sequence[str | TensorInfo] | None = None,
        *,
        base_step: int | None = None,
        step_offset: int | None = None,
        by_rank: Mapping[int, Sequence[str | TensorInfo]] | None = None,
        closed: bool = True,
    ) -> None:
        """A new attempt of the same run, from `base_step` (default: where it was). closed=False: it was killed."""
        if closed:
            self.close()
        else:
            self.flush()
        old = [replace(info, index=0) for info in self.infos[0]]
        base_step = self.now if base_step is None else base_step
        self._begin(old if tensors is None else tensors, by_rank or {}, base_step, step_offset)

    def close(self) -> None:
        """The attempt ends well: all ranks say so."""
        if not self._closed:
            for rank in self._ranks:
                self._send(rank, "closed", always=True)
        self._closed = True

    # -- what comes of it ------------------------------------------------------------------------------------------

    def engine(self, detectors: Sequence[Any] | None = None) -> Engine:
        """An engine that has been given every frame so far, and has judged all of it."""
        self.flush()
        engine = Engine(self.run) if detectors is None else Engine(self.run, detectors=detectors)
        if self.reference is not None:
            self.reference.flush()
            recorder = Recorder(self.reference.run)
            feed(recorder, self.reference.frames)
            recorder.finish()
            engine.history.compare_with(recorder.reference)
        feed(engine, self.frames)
        engine.finish()
        return engine

    def findings(self, detectors: Sequence[Any] | None = None) -> list[Finding]:
        """Every finding ever opened, judged by these detector classes (default: all of DETECTORS)."""
        return self.engine(detectors).findings

    # -- frames ----------------------------------------------------------------------------------------------------

    def _send(self, rank: int, phase: Any, always: bool = False) -> None:
        state = self._ranks[rank]
        if not (state.rows or state.events or state.tensors or always):
            return
        header = Header(
            agent_version="0",
            run=self.run,
            attempt=self.attempt,
            process=f"{self.attempt}-{rank}",
            rank=rank,
            world_size=self.world_size,
            seq=state.seq,
            started_at=float(self.attempt_number),
            sent_at=float(self.now),
            first_step=self.base_step + 1,
            base_step=self.base_step,
            complete_through=self.now,
            step_offset=self.step_offset,
            phase=phase,
            tensors=state.tensors,
            scalars=list(self._scalars),
            events=state.events,
            contract=self.contract.as_json(),
            reference=self.named_reference,
            about={"plan": self.plan} if self.plan else {},
        )
        tables = {
            name: {
                column: np.array(values, TABLE_BY_NAME[name].dtype_of(column))
                for column, values in columns.items()
            }
            for name, columns in state.rows.items()
        }
        self.frames.append(encode(Frame(header=header, tables=tables)))
        self._ranks[rank] = _Rank(seq=state.seq + 1, checkpoints=state.checkpoints)

    def _rows(self, rank: int, table: str, **row: Any) -> None:
        columns = self._ranks[rank].rows.setdefault(table, {})
        for name, value in row.items():
            columns.setdefault(name, []).append(value)

    def _tell(self, rank: int, table: str, given: PerTensor) -> None:
        for info in self.infos[rank]:
            if info.fqn in given or "*" in given:
                told = given.get(info.fqn, given.get("*"))
                row = _row(table, told, info)
                self._rows(rank, table, tensor=info.index, step=self.now, **row)

    def _rates(
        self, rank: int, lr: float | Sequence[float], decay: float | Sequence[float] | None
    ) -> None:
        rates = [lr] if isinstance(lr, (int, float)) else list(lr)
        decay = np.nan if decay is None else decay
        decays = [decay] if isinstance(decay, (int, float)) else list(decay)
        for group, rate in enumerate(rates):
            own = decays[min(group, len(decays) - 1)]
            self._rows(rank, "groups", group=group, step=self.now, lr=rate, weight_decay=own)

    def _save(
        self,
        rank: int,
        op: Any,
        keys: Sequence[str] | None,
        rows: PerTensor,
        version: int,
        fields: dict[str, Any],
    ) -> None:
        state = self._ranks[rank]
        raw = [info.raw_fqn for info in self.infos[rank]]
        keys = raw if keys is None else list(keys)
        by_fqn = {info.fqn: info for info in self.infos[rank]}
        infos = [by_fqn.get(canonical_fqn(key)) for key in keys]
        event = CheckpointSeen(
            **{
                "number": state.checkpoints,
                "op": op,
                "step": self.now,
                "keys": keys,
                "tensors": [-1 if info is None else info.index for info in infos],
                "dtypes": ["float32" if info is None else info.dtype for info in infos],
                "shapes": [[NUMEL] if info is None else info.shape for info in infos],
                "live_keys": raw,
                **fields,
            }
        )
        state.events.append(event)
        state.checkpoints += 1
        for entry, (key, info) in enumerate(zip(keys, infos, strict=True)):
            fqn = canonical_fqn(key)
            if (given := rows.get(fqn, rows.get("*", {}))) is not None:
                row = _entry(fqn, version, given)
                index = -1 if info is None else info.index
                place = {"checkpoint": event.number, "entry": entry, "tensor": index}
                self._rows(rank, "manifest", **place, step=self.now, **row)


def feed(engine: Engine, frames: Iterable[bytes]) -> None:
    """Give frames to an engine as the service does: decoded and validated."""
    for blob in frames:
        header, tables = decode(blob)
        engine.ingest(validate_header(header), tables)


def _info(given: str | TensorInfo) -> TensorInfo:
    return tensor(given) if isinstance(given, str) else given


def _indexed(tensors: Sequence[str | TensorInfo]) -> list[TensorInfo]:
    return [replace(_info(given), index=index) for index, given in enumerate(tensors)]


def _numel(info: TensorInfo) -> int:
    numel = 1
    for size in info.shape:
        numel *= size
    return numel


def _row(table: str, given: Any, info: TensorInfo) -> dict[str, Any]:
    columns = given if isinstance(given, Mapping) else {}
    number = 0.0 if columns else given
    size = min(_numel(info), 4096)
    row: dict[str, Any] = {
        "values": {"norm": number, "nonfinite": 0, "exact": 1},
        "updates": {
            "update_norm": number,
            "looked": size,
            "changed": size if number else 0,
            "with_gradient": size,
            "lost": 0 if number else size,
            "since": 1,
        },
        "gradients": {"grad_norm": number or 0.0, "grad_missing": int(number is None)},
        "extremes": {"low": number, "high": number, "total": 0.0},
        "counters": {"optimizer_step": number},
        "decays": {"due": number, "fell": 0},
        "moments": {"first_moment": number, "second_moment": number, "moment_bits": 32}
        | {f"moment_sketch_{k}": number for k in range(facts.MOMENT_SKETCH_SIZE)},
        "kept": {"writes": number, "kept_dot": 1.0, "kept_before": 1.0, "kept_square": 1.0},
        "routing": _EVEN_LOAD,
        "feeding": {"stacked": 8, "fed": 8, "unfed": 0, "usual_feeds": 32.0},
        "balancing": {"follows": number},
        "codes": {"codes": 64, "picked": number, "picked_recently": number, "memory_steps": 10.0},
        "digests": {},
        "rows": {"rows_alike": number},
        "beginning": {
            "read": size,
            "zeros": 0,
            "denormals": 0,
            "squares": 0.0,
            "largest": 0.0,
        },
    }[table]
    if table == "beginning" and not columns:
        row |= {"squares": number * number * size, "largest": 3 * number}
    if table == "extremes" and not columns:
        row["low"], row["high"] = given
        row["total"] = (row["low"] + row["high"]) / 2 * size
    if table == "updates" and columns:
        row |= {"changed": size, "lost": 0}
    if table == "digests":
        shared = {} if columns else {"digest": given}
        row = {
            name: value for name, value in _entry(info.fqn, 0, shared).items() if name in _DIGESTS
        }
    return {**row, **columns}


_EVEN_LOAD = {
    "experts": 8,
    "chosen": 1,
    "effective_experts": 8.0,
    "busiest": 1.0,
    "recent_tokens": 32768.0,
    "recent_effective": 8.0,
    "unused": 0,
}
_DIGESTS = {column.name for column in facts.DIGESTS.columns}


def _entry(fqn: str, version: int, given: PerTensor) -> dict[str, Any]:
    digest = digest_of(fqn, version)
    sketch = {f"sketch_{k}": 0.0 for k in range(facts.SKETCH_SIZE)}
    true = {
        "digest": digest,
        "count": NUMEL,
        "square_sum": 1.0,
        **sketch,
        "live_digest": digest,
        "live_square_sum": 1.0,
        "stale_step": -1,
    }
    return {**true, **given}
