"""
The runs in memory: read back from the store when they are needed, let go of when there are too many.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from urllib.parse import quote

from sqlalchemy.exc import SQLAlchemyError

from trainvitals_monitor.config import Config
from trainvitals_monitor.counters import Counters
from trainvitals_monitor.live import LiveRun
from trainvitals_monitor.references import References
from trainvitals_monitor.refusal import Refusal
from trainvitals_monitor.store import Store

_LOG = logging.getLogger("trainvitals.monitor")
SENDING_S = 60.0
"""A run that sends does so every few seconds, steps or not."""
_RELOADED = 8
"""Runs that are read back at a start; others are when they are asked for."""


class Roster:
    """Runs by name, last used last. Any thread; a run that is read back holds the others up meanwhile."""

    def __init__(self, config: Config, store: Store, counters: Counters) -> None:
        self._config = config
        self._store = store
        self._counters = counters
        self.references = References(store, config.reference, config.reference_store)
        self._runs: OrderedDict[str, LiveRun] = OrderedDict()
        self._lock = threading.RLock()

    def all(self) -> list[LiveRun]:
        """The runs in memory, last used last."""
        with self._lock:
            return list(self._runs.values())

    def get(self, name: str) -> LiveRun:
        """The run, read back if need be; Refusal if there is none."""
        live = self._known(name)
        if live is None:
            raise Refusal(
                "not-found", f"no run {name!r}; GET /api/v1/runs lists those that there are"
            )
        return live

    def get_or_make(self, name: str) -> LiveRun:
        """The run, made if there is none; Refusal if there are too many."""
        with self._lock:
            live = self._known(name)
            if live is None:
                self._check_room(name)
                live = LiveRun(
                    name,
                    page=self.page(name),
                    counters=self._counters,
                    references=self.references,
                    tuning=self._config.tuning,
                    keep_steps=self._config.keep_steps,
                )
                self._runs[name] = live
            return live

    def forget(self, names: Iterable[str]) -> None:
        """What is in memory of these is not what is in the store: read it back when it is needed."""
        with self._lock:
            for name in names:
                self._runs.pop(name, None)

    def drop_if_empty(self, name: str) -> None:
        """A refused frame leaves no run behind."""
        with self._lock:
            live = self._runs.get(name)
            if live is not None and live.is_empty:
                del self._runs[name]

    def read_back(self) -> None:
        """The last runs of the store, after a start."""
        for row in reversed(self._store.runs()[:_RELOADED]):
            started = time.perf_counter()
            try:
                self._known(row["name"])
            except Exception:  # noqa: BLE001 - logged
                # One run that can't be read must not keep the others from being watched.
                _LOG.exception("run %r could not be read back", row["name"])
                self._counters.errors["read-back"] += 1
            _LOG.info("run %r read back in %.2f s", row["name"], time.perf_counter() - started)

    def evict(self) -> None:
        """
        Let go of those used longest ago: beyond the limit of those that don't send, for the others would be read back with
        their next frame; and of these too where memory is short. The writer's thread, after a commit.
        """
        limits = self._config.limits
        with self._lock:
            if len(self._runs) <= limits.live_runs:
                return
            silent = [live for live in self._runs.values() if not _sends(live)]
            leaving = silent[: max(0, len(silent) - limits.live_runs)]
            staying = silent[len(leaving) :] + [one for one in self._runs.values() if _sends(one)]
            room = limits.live_bytes - sum(one.engine.history.num_bytes for one in staying)
            for live in staying[: -limits.live_runs]:
                if room < 0:
                    room += live.engine.history.num_bytes
                    leaving.append(live)
            for live in leaving:
                del self._runs[live.name]
            if leaving:
                self.settle(leaving)

    def settle(self, runs: Iterable[LiveRun]) -> None:
        """Runs are about to leave memory: what readers are told of them without reading them back."""
        try:
            with self._store.writing() as writing:
                for live in runs:
                    live.save_summary(writing)
        except (SQLAlchemyError, OSError) as error:
            _LOG.warning("the list of runs may be behind: %s", error)

    def page(self, run: str) -> str:
        """The address of the run's page."""
        config = self._config
        base = config.public_url or f"http://{config.host}:{config.port}"
        return f"{base.rstrip('/')}/runs/{quote(run)}"

    def _known(self, name: str) -> LiveRun | None:
        with self._lock:
            live = self._runs.get(name) or LiveRun.from_store(
                name,
                self._store,
                page=self.page(name),
                counters=self._counters,
                references=self.references,
                tuning=self._config.tuning,
                keep_steps=self._config.keep_steps,
            )
            if live is not None:
                self._runs[name] = live
                self._runs.move_to_end(name)
            return live

    def _check_room(self, name: str) -> None:
        limit = self._config.limits.runs
        if self._store.count_runs() >= limit:
            raise Refusal("over-limit", f"{limit} runs are stored; {name!r} would be one more")


def _sends(live: LiveRun) -> bool:
    """Whether a frame of it came of late, and none said that it ends."""
    if live.heard_at is None or live.closed_at is not None:
        return False
    return time.monotonic() - live.heard_at < SENDING_S
