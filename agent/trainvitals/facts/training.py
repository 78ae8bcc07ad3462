"""
Facts about how parameters are trained: gradients and what the optimizer remembers of them.
"""

from __future__ import annotations

from trainvitals.facts.table import Column, Merge, Table

MOMENT_SKETCH_SIZE = 4
"""Signed sums of a moment: enough to tell it from another parameter's, at half the width of a tensor's sketch."""
MOMENT_SKETCHES = tuple(f"moment_sketch_{k}" for k in range(MOMENT_SKETCH_SIZE))
"""Their columns."""

_NORM = Merge.ROOT_SUM_SQUARES

GRADIENTS = Table(
    name="gradients",
    help="Gradients as the optimizer is about to use them (read before the step).",
    columns=(
        Column(
            name="grad_norm",
            dtype="float64",
            merge=_NORM,
            help="L2 norm of the gradient; 0 if missing",
        ),
        Column(
            name="grad_missing",
            dtype="uint8",
            merge=Merge.MIN,
            help="1: .grad was None before the step",
        ),
    ),
)
COUNTERS = Table(
    name="counters",
    help="The optimizer's own step counter for a parameter (Adam's bias correction uses it).",
    columns=(
        Column(
            name="optimizer_step",
            dtype="int64",
            merge=Merge.MAX,
            help="state['step'] of the parameter",
        ),
    ),
)
DECAYS = Table(
    name="decays",
    help="Second moments of 16 bits beside wider parameters: whether their elements can fall.",
    columns=(
        Column(
            name="due",
            dtype="int64",
            merge=Merge.SUM,
            help="elements of exp_avg_sq, of the cores, above twice the gradient's square in this step",
        ),
        Column(
            name="fell",
            dtype="int64",
            merge=Merge.SUM,
            help="of them, those that became smaller in this step",
        ),
    ),
)
MOMENTS = Table(
    name="moments",
    help="What the optimizer remembers of a parameter's gradients, looked at now and then.",
    columns=(
        Column(
            name="first_moment",
            dtype="float64",
            merge=_NORM,
            help="L2 norm of exp_avg or momentum_buffer, scaled up from the cores; 0 if there is none",
        ),
        Column(
            name="second_moment",
            dtype="float64",
            merge=_NORM,
            help="L2 norm of exp_avg_sq or square_avg, scaled up from the cores; 0 if there is none",
        ),
        Column(
            name="moment_bits",
            dtype="int64",
            merge=Merge.MIN,
            help="width of the narrowest floating dtype among them",
        ),
        *(
            Column(
                name=name,
                dtype="float64",
                merge=Merge.SUM,
                help=f"signed sum {k} of the cores of the second moment, or of the first if there is no second: "
                "differences tell whether it is still the same one",
            )
            for k, name in enumerate(MOMENT_SKETCHES)
        ),
    ),
)
KEPT = Table(
    name="kept",
    help="Gradients of a few parameters that are, at two steps in a row, the same tensors as at the step before.",
    columns=(
        Column(
            name="writes",
            dtype="int64",
            merge=Merge.MAX,
            help="writes in place since the step before, as the tensor's version counts them",
        ),
        Column(
            name="kept_dot",
            dtype="float64",
            merge=Merge.SUM,
            help="product of the gradient with that of the step before, over the cores",
        ),
        Column(
            name="kept_before",
            dtype="float64",
            merge=Merge.SUM,
            help="sum of squares of the gradient of the step before, over the cores",
        ),
        Column(
            name="kept_square",
            dtype="float64",
            merge=Merge.SUM,
            help="sum of squares of the gradient, over the cores",
        ),
    ),
)
