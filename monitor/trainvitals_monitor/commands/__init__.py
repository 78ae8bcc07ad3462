"""
The commands of `trainvitals`, one file each.
"""

from __future__ import annotations

import click

from trainvitals_monitor.commands.ack import ack
from trainvitals_monitor.commands.check import check
from trainvitals_monitor.commands.compare import compare
from trainvitals_monitor.commands.contract import contract
from trainvitals_monitor.commands.demo import demo
from trainvitals_monitor.commands.doctor import doctor
from trainvitals_monitor.commands.findings import findings
from trainvitals_monitor.commands.generate import generate
from trainvitals_monitor.commands.mute import mute
from trainvitals_monitor.commands.mutes import mutes
from trainvitals_monitor.commands.replay import replay
from trainvitals_monitor.commands.runs import runs
from trainvitals_monitor.commands.serve import serve

COMMANDS: tuple[click.Command, ...] = (
    serve,
    demo,
    check,
    contract,
    replay,
    compare,
    runs,
    findings,
    ack,
    mute,
    mutes,
    doctor,
    generate,
)

__all__ = ["COMMANDS"]
