"""
The dashboard LoRA: the norms of A and B, their product against the base, and how fast A grows.
"""

from __future__ import annotations

from trainvitals_monitor.detectors.lora_a_growth import LoraAGrowth
from trainvitals_monitor.generate.dashboards.board import Board, Panel, Query, Row, limit
from trainvitals_monitor.generate.dashboards.queries import select
from trainvitals_monitor.generate.dashboards.shared import (
    OPEN,
    RUN,
    by_layer,
    findings_table,
    layer_map,
    layers_of,
)

_A = select("trainvitals_lora_norm", matrix="a")
_B = select("trainvitals_lora_norm", matrix="b")

LORA = Board(
    name="lora",
    title="trainvitals / LoRA",
    description="Low-rank adapters: A, B, their product against the weights adapted, and growth, by layer.",
    variables=(RUN, layers_of("trainvitals_lora_norm")),
    findings=OPEN,
    rows=(
        Row(
            title="Adapters",
            panels=(
                layer_map(
                    "Norm of A, by layer",
                    "The largest A of each layer.",
                    "trainvitals_lora_norm",
                    matrix="a",
                ),
                layer_map(
                    "Norm of B, by layer",
                    "The largest B of each layer; 0 until the first step that moves it.",
                    "trainvitals_lora_norm",
                    matrix="b",
                ),
                layer_map(
                    "Product against the base, by layer",
                    "Norm of A times norm of B, over that of the weight adapted.",
                    "trainvitals_lora_product_ratio",
                ),
                Panel(
                    title="Growth of A in the time shown",
                    description="Norm of A over its smallest in the time shown.",
                    unit="none",
                    height=9,
                    log=True,
                    limits=(limit(LoraAGrowth, "growth"),),
                    queries=(
                        Query(
                            f"max by (layer) ({_A} / min_over_time({_A}[$__range]))", "{{layer}}"
                        ),
                    ),
                ),
                Panel(
                    title="Growth of A a step",
                    description="Growth of the norm of A a step, over the last 256: 1 % a step is a hundredfold in 460.",
                    unit="percentunit",
                    queries=(by_layer("trainvitals_lora_growth_ratio"),),
                ),
                Panel(
                    title="Norms of A and B",
                    description="The largest A and the largest B of each layer: B should grow from 0, A hardly move.",
                    unit="none",
                    queries=(
                        Query(f"max by (layer) ({_A})", "A {{layer}}"),
                        Query(f"max by (layer) ({_B})", "B {{layer}}"),
                    ),
                ),
                findings_table(
                    "Open findings",
                    "What is wrong in the run now; the page has evidence and advice.",
                ),
            ),
        ),
    ),
)
