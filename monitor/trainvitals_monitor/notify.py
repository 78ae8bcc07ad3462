"""
`serve --notify`: tells people of findings without Prometheus, by any service that apprise knows.

A thread of its own looks at the runs in memory now and then, asks waking.py what is to be told, and hands it to the
outlets (delivery.py). Ingest never waits for it. What was told rests in a small file beside the store, so that a restart
tells nothing twice and forgets nothing that was not delivered.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from trainvitals_monitor.delivery import Outlet
from trainvitals_monitor.findings import Finding
from trainvitals_monitor.first_cause import standing
from trainvitals_monitor.live import LiveRun
from trainvitals_monitor.waking import RunState, WakeBook

_LOG = logging.getLogger("trainvitals.monitor")
LOOK_EVERY_S = 2.0
_PATIENCE_S = 5.0


class Notifier:
    """
    Watches from `start()` to `close()`. Raises ValueError, one line that has no URL in it, for one that can't be used.

    `runs`: those in memory. `counted`: deliveries by outcome. `file`: where to keep what was told. `heard`:
    of some findings, those that nobody muted. `silenced`: whether a run is muted as a whole.
    """

    def __init__(
        self,
        urls: Sequence[str],
        runs: Callable[[], Iterable[LiveRun]],
        *,
        counted: Counter[str],
        file: Path,
        tell_over: bool = False,
        heard: Callable[[Sequence[Finding]], list[Finding]] = list,
        silenced: Callable[[str], bool] = lambda _run: False,
    ) -> None:
        self._outlets = [Outlet(url, number, counted) for number, url in enumerate(urls, 1)]
        self._runs = runs
        self._heard = heard
        self._silenced = silenced
        self._file = file
        self._kept = self._read()
        self._book = WakeBook(time.monotonic(), tell_over=tell_over, stored=self._kept)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="trainvitals-watch", daemon=True)
        self._failed = False

    def start(self) -> None:
        """Begin to watch."""
        for outlet in self._outlets:
            outlet.start()
        self._thread.start()

    def close(self) -> None:
        """A last look, and some seconds for what waits."""
        self._ending.set()
        if not self._thread.is_alive():
            return
        self._thread.join()
        deadline = time.monotonic() + _PATIENCE_S
        for outlet in self._outlets:
            outlet.close(max(0.0, deadline - time.monotonic()))
        try:
            self._keep()
        except OSError as error:
            _LOG.error("what was told could not be kept, and will be told again: %s", error)

    def waiting(self) -> int:
        """Messages that were not delivered yet."""
        return sum(len(outlet.waiting()) for outlet in self._outlets)

    def _work(self) -> None:
        ended = False
        while not ended:
            ended = self._ending.wait(LOOK_EVERY_S)
            try:
                self._look()
                self._failed = False
            except Exception:  # noqa: BLE001 - logged: the next look may succeed
                if not self._failed:
                    _LOG.exception("what is to be notified could not be found out")
                self._failed = True

    def _look(self) -> None:
        states = [state for run in self._runs() if (state := self._state(run)) is not None]
        for message in self._book.due(states, time.monotonic()):
            for outlet in self._outlets:
                outlet.put(message)
        self._keep()

    def _state(self, run: LiveRun) -> RunState | None:
        """The run as it is now; None before its first frame."""
        with run.lock:
            said, findings = run.engine.summary(), run.engine.findings
            heard_at = run.heard_at
        if not said:
            return None
        return RunState(
            run=run.name,
            page=run.page,
            step=said["step"],
            closed=said["phase"] == "closed",
            heard_at=heard_at,
            findings=findings,
            telling=self._heard(standing(findings)),
            muted=self._silenced(run.name),
        )

    def _keep(self) -> None:
        unsent = [message for outlet in self._outlets for message in outlet.waiting()]
        kept = self._book.as_json(unsent)
        if kept == self._kept:
            return
        # Written whole or not at all: a monitor that is killed finds what it had.
        fresh = self._file.with_name(f"{self._file.name}.new")
        fresh.write_text(json.dumps(kept))
        os.replace(fresh, self._file)
        self._kept = kept

    def _read(self) -> dict[str, Any]:
        try:
            kept = json.loads(self._file.read_text())
            WakeBook(0.0, stored=kept)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning("%s can't be read, and is begun anew: %s", self._file, error)
            return {}
        known: dict[str, Any] = kept
        return known
