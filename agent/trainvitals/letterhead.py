"""
What stands at the head of every frame: who speaks, how far it is, and what it was told.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import torch

import trainvitals
from trainvitals.attempt import World
from trainvitals.contract import Contract
from trainvitals.frame import Header
from trainvitals.plan import Plan
from trainvitals.progress import Progress
from trainvitals.settings import Settings

CONTRACT_EVERY = 64
"""Frames of which one carries the contract: the first does, and a later one where that was lost."""


class Letterhead:
    """One per agent, made when it is; `header` is called on the sender's thread, which adds what waits in the record."""

    def __init__(
        self,
        settings: Settings,
        attempt: str,
        world: World,
        mesh: str,
        contract: Contract,
        progress: Progress,
        plan: Callable[[], Plan],
    ) -> None:
        self._settings = settings
        self._attempt = attempt
        self._world = world
        self._mesh = mesh
        self._contract = contract
        self._progress = progress
        self._plan = plan
        self._started_at = time.time()
        self._process = secrets.token_hex(8)

    def header(self, seq: int) -> Header:
        """Of frame `seq`, as things stand now."""
        progress = self._progress
        return Header(
            agent_version=trainvitals.__version__,
            run=self._settings.run,
            attempt=self._attempt,
            process=self._process,
            rank=self._world.rank,
            world_size=self._world.world_size,
            seq=seq,
            started_at=self._started_at,
            sent_at=time.time(),
            first_step=progress.base,
            base_step=progress.base,
            complete_through=progress.complete_through,
            step_offset=progress.offset,
            phase=progress.phase,
            mesh=self._mesh,
            contract=self._contract.as_json() if seq % CONTRACT_EVERY == 1 else {},
            reference=self._settings.reference,
            about={"torch": torch.__version__, "plan": str(self._plan())},
        )
