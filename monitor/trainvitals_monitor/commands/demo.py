"""
`trainvitals demo`: see it work.
"""

from __future__ import annotations

from importlib.util import find_spec

import click

from trainvitals_monitor.demo import FAULT_BY_NAME
from trainvitals_monitor.demo.runner import run_demo


@click.command()
@click.option(
    "--fault",
    type=click.Choice(list(FAULT_BY_NAME)),
    default="expert-bias",
    show_default=True,
    help="What is wrong with the training.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=8),
    help="Steps of each attempt (default: as the fault needs).",
)
@click.option(
    "--linger",
    "linger_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long the monitor stays afterwards (default: until Ctrl-C on a terminal, else 600).",
)
def demo(*, fault: str, steps: int | None, linger_s: float | None) -> int:
    """
    Train a small mixture of experts with a real fault in it, and see it found.

    Each fault is one that a known trainer had; all of them train on without an error. Takes up to two minutes on two
    cores, and needs torch.

    \b
    Examples:
      trainvitals demo
      trainvitals demo --fault compile-resume
      trainvitals demo --fault none          a healthy run: nothing is found
    """
    if find_spec("torch") is None:
        raise click.ClickException("the demo trains a model: pip install torch")
    return run_demo(FAULT_BY_NAME[fault], steps=steps, linger_s=linger_s)
