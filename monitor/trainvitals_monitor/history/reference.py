"""
A run that another one is compared with: what it showed at each step, as far as that can be compared.

Made by looking at the reference run's views as they are judged. Its tensors are known by FQN; whoever compares asks for
columns in the order of his own table. Where the reference was resumed, the attempt that came last counts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainvitals.frame import ModesSeen

if TYPE_CHECKING:
    from trainvitals_monitor.history.tensors import TensorTable
    from trainvitals_monitor.history.view import View

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Columns = Mapping[str, npt.NDArray[Any]]

STATS = ("norm", "exact", "update_norm", "since", "grad_norm")
"""The statistics that are kept of a reference."""
_FLOAT32 = np.finfo(np.float32)
MAX_BYTES = 1 << 29
"""What one reference may take in memory; its steps beyond are not kept, and not compared."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run was set up, from some step on: by FQN what its tensors are, and in which modes it trains."""

    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    trainable: frozenset[str]
    held: frozenset[str]
    optimizers: tuple[str, ...] = ()
    evaluating: frozenset[str] = frozenset()
    dropout_rates: tuple[float, ...] | None = None
    world_size: int = 1


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a checkpoint held: dtype by raw key, and which of its entries were zero throughout."""

    dtypes: Mapping[str, str]
    zero: frozenset[str]


@dataclass(frozen=True)
class _Row:
    stats: Mapping[str, FloatArray]
    lr: FloatArray
    scalars: Mapping[str, float]


@dataclass
class Reference:
    """What is kept of the run `run`; steps are those of its trainer's optimizer, as the agent counts them."""

    run: str
    _index: dict[str, int] = field(default_factory=dict)
    _rows: dict[int, _Row] = field(default_factory=dict)
    _starts: dict[int, tuple[IntArray, Columns]] = field(default_factory=dict)
    _settings: list[tuple[int, Settings]] = field(default_factory=list)
    _saved: dict[tuple[int, int], Saved] = field(default_factory=dict)
    _place: tuple[Hashable, IntArray] | None = None
    _settled: Hashable = None
    _bytes: int = 0

    @property
    def num_steps(self) -> int:
        """Steps that are kept."""
        return len(self._rows)

    @property
    def last_step(self) -> int:
        """The last step that is kept, -1 for none."""
        return max(self._rows, default=-1)

    # -- taking it down ----------------------------------------------------------------------------------------------

    def take(self, view: View) -> None:
        """What the reference run shows at a look."""
        self._saved.update(saves_of(view))
        if view.is_late or self._bytes > MAX_BYTES:
            return
        place = self._placed(view)
        stats = {stat: _spread(looked(view, stat), place, len(self._index)) for stat in STATS}
        row = _Row(
            stats={stat: column for stat, column in stats.items() if column is not None},
            lr=_spread(np.array(view.lr), place, len(self._index)),
            scalars=last_scalars(view),
        )
        self._rows[view.step] = row
        self._bytes += sum(column.nbytes for column in row.stats.values()) + row.lr.nbytes
        if view.step <= view.base_step + 1:
            start = view.first_digests()
            if start is not None and view.first_digests_step == view.base_step:
                self._starts[view.base_step] = (place, start)
        self._settle(view)

    def _placed(self, view: View) -> IntArray:
        """Where each of the view's tensors is kept here."""
        key = (view.attempt, view.tensors.version)
        if self._place is None or self._place[0] != key:
            for fqn in view.tensors.fqn:
                self._index.setdefault(fqn, len(self._index))
            place = np.array([self._index[fqn] for fqn in view.tensors.fqn], np.int64)
            self._place = (key, place)
        return self._place[1]

    def _settle(self, view: View) -> None:
        key = settings_key(view)
        if key != self._settled:
            self._settled = key
            while self._settings and self._settings[-1][0] >= view.step:
                self._settings.pop()
            self._settings.append((view.step, settings_of(view)))

    # -- asking it ---------------------------------------------------------------------------------------------------

    def index(self, table: TensorTable) -> IntArray:
        """Where each tensor of a table is kept here, -1 for those that the reference does not have."""
        return np.array([self._index.get(fqn, -1) for fqn in table.fqn], np.int64)

    def has(self, step: int) -> bool:
        """Whether this step is kept."""
        return step in self._rows

    def stat(self, stat: str, step: int, index: IntArray) -> FloatArray:
        """A statistic at a step, in the order of `index`; NaN: not looked at, infinite: not finite."""
        row = self._rows.get(step)
        return _pick(None if row is None else row.stats.get(stat), index)

    def lr(self, step: int, index: IntArray) -> FloatArray:
        """The learning rate of each tensor at a step, NaN where unknown."""
        row = self._rows.get(step)
        return _pick(None if row is None else row.lr, index)

    def scalars(self, step: int) -> Mapping[str, float]:
        """What its trainer had logged about this step."""
        row = self._rows.get(step)
        return {} if row is None else row.scalars

    def start(self, base_step: int, index: IntArray) -> dict[str, npt.NDArray[Any]] | None:
        """DIGESTS columns of the state that training went on from after `base_step` (`count` 0: none)."""
        if base_step not in self._starts:
            return None
        place, columns = self._starts[base_step]
        found = {}
        for name, column in columns.items():
            whole = np.zeros(len(self._index), column.dtype)
            whole[place[: len(column)]] = column[: len(place)]
            found[name] = np.where(index >= 0, whole[index], 0).astype(column.dtype)
        return found

    def saved(self, place: tuple[int, int]) -> Saved | None:
        """The save of this step and number within it, if the reference saved then."""
        return self._saved.get(place)

    def settings(self, step: int) -> Settings | None:
        """How it was set up at a step."""
        place = bisect_right([begun for begun, _ in self._settings], step)
        return self._settings[place - 1][1] if place else None


def looked(view: View, stat: str) -> FloatArray | None:
    """A statistic at the view's step: NaN where not looked at, infinite where it is not finite; None: no row at all."""
    seen = view.seen(stat)
    if not seen.any():
        return None
    values = np.array(view.now(stat))
    values[seen & ~np.isfinite(values)] = np.inf
    values[~seen] = np.nan
    return rounded(values)


def rounded(values: FloatArray) -> FloatArray:
    """In single precision, as older values rest in the store: so that those of today are equal to them if they are."""
    size = np.abs(values)
    fits = (size >= _FLOAT32.tiny) & (size <= _FLOAT32.max)
    with np.errstate(all="ignore"):
        single: FloatArray = np.where(fits, values.astype(np.float32), values)
    return single


def last_scalars(view: View) -> dict[str, float]:
    """What the trainer has logged last, by name: about this step, or the one before it (many log after the step)."""
    found = {}
    for name in view.scalar_names:
        steps, values = view.scalar(name, 1)
        if len(steps) and int(steps[-1]) == view.step:
            found[name] = float(rounded(values[-1:])[0])
    return found


def saves_of(view: View) -> dict[tuple[int, int], Saved]:
    """New saves of a model's state, by their step and number within the look."""
    found: dict[tuple[int, int], Saved] = {}
    for one in view.new_checkpoints():
        if one.op != "save" or not one.is_model or one.failed or one.foreign:
            continue
        count, square = one.rows.get("count"), one.rows.get("square_sum")
        zero: list[str] = []
        if count is not None and square is not None:
            empty = np.flatnonzero((count > 0) & (square == 0)).tolist()
            zero = [one.keys[entry] for entry in empty]
        number = sum(step == one.step for step, _ in found)
        dtypes = dict(zip(one.keys, one.dtypes, strict=True))
        found[one.step, number] = Saved(dtypes=dtypes, zero=frozenset(zero))
    return found


def settings_key(view: View) -> Hashable:
    """Changes when `settings_of` may."""
    optimizers, modes = view.optimizers, _modes(view)
    return (
        view.attempt,
        view.tensors.version,
        None if optimizers is None else (optimizers.step, len(optimizers.group_tensors)),
        -1 if modes is None else modes.step,
    )


def settings_of(view: View) -> Settings:
    """How the run is set up now."""
    table, last = view.tensors, _modes(view)
    held = view.held if view.optimizers is not None else np.zeros(view.num_tensors, np.bool_)
    return Settings(
        dtypes=dict(zip(table.fqn, table.dtype, strict=True)),
        shapes=dict(zip(table.fqn, table.shape, strict=True)),
        trainable=frozenset(table.fqn[i] for i in np.flatnonzero(table.trainable).tolist()),
        held=frozenset(table.fqn[i] for i in np.flatnonzero(held).tolist()),
        optimizers=tuple(view.optimizers.optimizers) if view.optimizers else (),
        evaluating=frozenset(table.fqn[i] for i in (last.tensors if last else []) if i >= 0),
        dropout_rates=_dropout_rates(last),
        world_size=view.world_size,
    )


def _modes(view: View) -> ModesSeen | None:
    """As last settled."""
    told = [at.event for at in view.past_events(ModesSeen) if at.event.settled]
    return told[-1] if told else None


def _dropout_rates(modes: ModesSeen | None) -> tuple[float, ...] | None:
    """None where they are not known: an older agent does not tell them."""
    known = modes is not None and bool(modes.dropout_rates or not modes.dropouts)
    return tuple(modes.dropout_rates) if modes is not None and known else None


def _spread(column: FloatArray | None, place: IntArray, size: int) -> Any:
    if column is None:
        return None
    whole = np.full(size, np.nan)
    whole[place] = column
    return whole


def _pick(column: FloatArray | None, index: IntArray) -> FloatArray:
    found = np.full(len(index), np.nan)
    if column is not None:
        known = (index >= 0) & (index < len(column))
        found[known] = column[index[known]]
    return found
