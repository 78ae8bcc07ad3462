"""
The dashboard MoE: where tokens go, and the biases that should balance them.
"""

from __future__ import annotations

from trainvitals_monitor.detectors.expert_bias_drift import ExpertBiasDrift
from trainvitals_monitor.detectors.expert_dead import ExpertDead
from trainvitals_monitor.detectors.expert_load_imbalance import ExpertLoadImbalance
from trainvitals_monitor.detectors.router_collapse import RouterCollapse
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

_EXPERTS = select("trainvitals_experts")
_EFFECTIVE = f"{_EXPERTS} ^ {select('trainvitals_expert_load_entropy_ratio')}"

LOAD = Row(
    title="Load",
    panels=(
        layer_map(
            "Busiest expert by layer",
            "Load of the busiest expert over that of the mean; 1 is even.",
            "trainvitals_expert_load_max_ratio",
        ),
        layer_map(
            "Dead experts by layer",
            "Experts that were not chosen once in the last looks.",
            "trainvitals_expert_dead",
            "short",
        ),
        Panel(
            title="Effective experts",
            description="Experts that the load amounts to, if it were even, over all of them (exp of the entropy). The "
            "detectors leave out those that every token chooses, and so see a little less.",
            unit="percentunit",
            minimum=0,
            maximum=1,
            limits=(
                limit(RouterCollapse, "evenness", above=False),
                limit(ExpertLoadImbalance, "evenness", above=False),
            ),
            queries=(Query(f"min by (layer) ({_EFFECTIVE} / {_EXPERTS})", "{{layer}}"),),
        ),
        Panel(
            title="Share of dead experts",
            description="Experts that were not chosen once in the last looks, over all of a layer's.",
            unit="percentunit",
            minimum=0,
            maximum=1,
            limits=(limit(ExpertDead, "share"),),
            queries=(
                Query(
                    f"max by (layer) ({select('trainvitals_expert_dead')} / {_EXPERTS})",
                    "{{layer}}",
                ),
            ),
        ),
        Panel(
            title="Entropy of the load",
            description="Entropy of the experts' loads over its largest possible value; 1 is even.",
            unit="percentunit",
            minimum=0,
            maximum=1,
            queries=(by_layer("trainvitals_expert_load_entropy_ratio", of="min"),),
        ),
        Panel(
            title="Experts",
            description="Experts of each layer's router.",
            unit="short",
            minimum=0,
            queries=(by_layer("trainvitals_experts"),),
        ),
    ),
)

BIAS = Row(
    title="Bias",
    panels=(
        layer_map(
            "Norm of the expert bias, by layer",
            "A bias that is replaced or reset falls back to zero here.",
            "trainvitals_expert_bias_norm",
        ),
        Panel(
            title="Spread of the expert bias",
            description="Largest less smallest element of each layer's bias.",
            unit="none",
            minimum=0,
            limits=(limit(ExpertBiasDrift, "spread"),),
            queries=(by_layer("trainvitals_expert_bias_spread"),),
        ),
        Panel(
            title="Drift of the expert bias",
            description="Move, in the last 256 steps, of the middle between smallest and largest element: a bias that balances hovers around 0.",
            unit="sci",
            queries=(by_layer("trainvitals_expert_bias_drift"),),
        ),
        Panel(
            title="Type of the expert bias",
            description="Each bias with its dtype; below float32, updates of 0.001 are rounded away.",
            kind="table",
            unit="none",
            columns=(("layer", "Layer"), ("tensor", "Tensor"), ("dtype", "Type")),
            values=False,
            queries=(
                Query(f"max by (layer, tensor, dtype) ({select('trainvitals_expert_bias_info')})"),
            ),
        ),
    ),
)

ROUTERS = Row(
    title="Routers and findings",
    panels=(
        Panel(
            title="Gradient norm of the routers",
            description="Norm of the gradients of all router weights, before the step.",
            unit="none",
            log=True,
            queries=(
                Query(
                    f"max by (role) ({select('trainvitals_role_gradient_norm', role='router')})",
                    "{{role}}",
                ),
            ),
        ),
        Panel(
            title="Update ratio of the routers",
            description="Norm of a step over that of the weights, of all routers.",
            unit="sci",
            log=True,
            queries=(
                Query(
                    f"max by (role) ({select('trainvitals_role_update_ratio', role='router')})",
                    "{{role}}",
                ),
            ),
        ),
        findings_table(
            "Open findings",
            "What is wrong in the run now; the page has evidence and advice.",
        ),
    ),
)

MOE = Board(
    name="moe",
    title="trainvitals / MoE",
    description="Mixture of experts: load, dead experts and balancing biases, by layer.",
    variables=(RUN, layers_of("trainvitals_experts")),
    findings=OPEN,
    rows=(LOAD, BIAS, ROUTERS),
)
