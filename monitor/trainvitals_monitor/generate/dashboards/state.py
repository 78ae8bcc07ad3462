"""
Rows of the dashboard Run that are about the model's state: by layer, and by role.
"""

from __future__ import annotations

from trainvitals_monitor.detectors.update_ratio_out_of_range import UpdateRatioOutOfRange
from trainvitals_monitor.generate.dashboards.board import Panel, Row, limit
from trainvitals_monitor.generate.dashboards.shared import by, layer_map

_SLOW = limit(UpdateRatioOutOfRange, "ratio", above=False)

LAYERS = Row(
    title="Layers",
    panels=(
        layer_map("Norm by layer", "Norm of all parameters of a layer.", "trainvitals_layer_norm"),
        layer_map(
            "Gradient norm by layer",
            "Norm of a layer's gradient before the step.",
            "trainvitals_layer_gradient_norm",
        ),
        layer_map(
            "Update ratio by layer",
            "Norm of a step over that of the parameters, by layer.",
            "trainvitals_layer_update_ratio",
            "sci",
        ),
        layer_map(
            "Elements that changed, by layer",
            "Share of elements whose bits changed between two looks: low values mean that updates are rounded away.",
            "trainvitals_layer_changed_ratio",
            "percentunit",
        ),
        layer_map(
            "Elements that are not finite, by layer",
            "Parameters' elements that are NaN or infinite.",
            "trainvitals_layer_nonfinite_elements",
            "short",
        ),
        Panel(
            title="Largest update ratios",
            description="The tensors that move most, relative to their size.",
            unit="sci",
            height=9,
            log=True,
            queries=(by("tensor", "trainvitals_offender_update_ratio"),),
        ),
    ),
)

ROLES = Row(
    title="Roles",
    panels=(
        Panel(
            title="Norm by role",
            description="Norm of all tensors of a role: routers, norms, embeddings, the others.",
            unit="none",
            log=True,
            queries=(by("role", "trainvitals_role_norm"),),
        ),
        Panel(
            title="Gradient norm by role",
            description="Norm of the gradients of all tensors of a role, before the step.",
            unit="none",
            log=True,
            queries=(by("role", "trainvitals_role_gradient_norm"),),
        ),
        Panel(
            title="Update ratio by role",
            description="Norm of a step over that of the values, by role.",
            unit="sci",
            log=True,
            limits=(_SLOW,),
            queries=(by("role", "trainvitals_role_update_ratio"),),
        ),
        Panel(
            title="Elements that changed, by role",
            description="Share of elements whose bits changed between two looks, by role.",
            unit="percentunit",
            minimum=0,
            maximum=1,
            queries=(by("role", "trainvitals_role_changed_ratio"),),
        ),
        Panel(
            title="Elements that are not finite, by role",
            description="Elements that are NaN or infinite, by role; buffers are counted too.",
            unit="short",
            minimum=0,
            queries=(by("role", "trainvitals_role_nonfinite_elements"),),
        ),
        Panel(
            title="Largest gradient norms",
            description="The tensors with the largest gradients.",
            unit="none",
            log=True,
            queries=(by("tensor", "trainvitals_offender_gradient_norm"),),
        ),
    ),
)
