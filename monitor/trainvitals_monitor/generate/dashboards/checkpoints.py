"""
The dashboard Checkpoints: what was saved last, whether one can go back to it, and what is wrong with it.
"""

from __future__ import annotations

from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.generate.dashboards.board import Board, Panel, Query, Row
from trainvitals_monitor.generate.dashboards.queries import added, select
from trainvitals_monitor.generate.dashboards.shared import (
    ANY,
    OPEN,
    RUN,
    findings_table,
    number,
    one,
)

_OURS = "|".join(one.name for one in DETECTORS if one.family == "checkpoint")

CHECKPOINTS = Board(
    name="checkpoints",
    title="trainvitals / Checkpoints",
    description="Saves and loads of a run: which is the last clean one, what is stale, which keys changed.",
    variables=(RUN,),
    findings=OPEN,
    rows=(
        Row(
            title="Saves",
            panels=(
                number(
                    "Last save",
                    "Step of the last save of the model that did not fail.",
                    one("trainvitals_checkpoint_last_save_step", "step"),
                    width=6,
                ),
                number(
                    "Last clean save",
                    "Step of the last save from before any fault that is open now; - if there is none.",
                    one("trainvitals_checkpoint_last_clean_step", "step"),
                    width=6,
                ),
                number(
                    "Stale tensors",
                    "Entries of the last save that equal an older state of their tensor.",
                    one("trainvitals_checkpoint_stale_tensors", "tensors"),
                    ANY,
                    width=6,
                ),
                number(
                    "Keys changed",
                    "Keys that only one of the last two saves has.",
                    one("trainvitals_checkpoint_keys_changed", "keys"),
                    ANY,
                    width=6,
                ),
                Panel(
                    title="Steps at risk",
                    description="Steps since the last save, and since the last clean one: what a fault found now would cost.",
                    unit="short",
                    minimum=0,
                    queries=(
                        Query(
                            f"max({select('trainvitals_run_step')}) - max({select('trainvitals_checkpoint_last_save_step')})",
                            "since the last save",
                        ),
                        Query(
                            f"max({select('trainvitals_run_step')}) - max({select('trainvitals_checkpoint_last_clean_step')})",
                            "since the last clean save",
                        ),
                    ),
                ),
                Panel(
                    title="Saves and loads",
                    description="Saves and loads seen in each interval.",
                    unit="short",
                    minimum=0,
                    queries=(
                        Query(f"sum({added('trainvitals_checkpoint_saves_total')})", "saves"),
                        Query(f"sum({added('trainvitals_checkpoint_loads_total')})", "loads"),
                    ),
                ),
                Panel(
                    title="Stale tensors over time",
                    description="Entries of the last save that equal an older state of their tensor, and keys that changed.",
                    unit="short",
                    minimum=0,
                    limits=(ANY,),
                    queries=(
                        one("trainvitals_checkpoint_stale_tensors", "stale tensors"),
                        one("trainvitals_checkpoint_keys_changed", "keys changed"),
                    ),
                ),
                Panel(
                    title="Save and clean save",
                    description="The steps of the last save and of the last clean one: apart, something is wrong in the later.",
                    unit="none",
                    queries=(
                        one("trainvitals_checkpoint_last_save_step", "last save"),
                        one("trainvitals_checkpoint_last_clean_step", "last clean save"),
                    ),
                ),
                findings_table(
                    "Open findings about checkpoints",
                    "Findings of the detectors that look at saves, loads and resumes.",
                    detector=f"~{_OURS}",
                ),
            ),
        ),
    ),
)
