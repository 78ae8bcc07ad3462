"""
The detector replica-divergence: ranks that should hold the same tensor hold different ones.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.roles import Role
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.replicated import (
    Parted,
    are_replicas_otherwise,
    beyond_one_update,
    gradients_apart,
    have_one_gradient,
    is_drifting,
    is_unsynced,
    parted,
    were_proven,
)
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_DIFFERS = "{fqn} is not the same on all ranks: rank {rank} differs from rank {like_rank} by {distance:.2g} of its norm"


class ReplicaDivergence(Detector):
    """
    Detects:
        A parameter whose bits differ between the ranks of one replica group (DistributedDataParallel, HSDP, replicated
        DTensors) after the same step; or only its gradients do, just before the optimizer uses them. Where no layout says
        that ranks are replicas: a parameter that was equal on all ranks for several steps in which it moved, and
        then was not, while others of the model still are; or that differs though all ranks step with the very same
        gradients; or a norm, a bias or a codebook that differs while every trained matrix is equal. And a vector quantizer's
        codebook in buffers, when it is further apart than its own updates.

    Why it matters:
        Each rank trains a model of its own on its part of the data. The checkpoint is one rank's, and the other ranks'
        work is lost; averaged gradients of unequal weights are gradients of nothing.

    Known causes:
        The forward pass goes through `ddp.module`, so that the reducer is never armed
        (https://github.com/jingyaogong/minimind/issues/853, https://github.com/huggingface/trl/issues/7245); `no_sync()`
        that is never left; parameters made or unfrozen after DDP was; weights loaded on one rank only; a hand-made
        all-reduce that leaves some parameters out; random numbers or clipping of its own on each rank after the
        all-reduce (LayerNorms that drift apart: https://github.com/deepspeedai/DeepSpeed/issues/1801); a codebook that is
        updated from what one rank has seen (https://github.com/lucidrains/vector-quantize-pytorch/issues/222).

    Fix:
        Call the wrapper, not what it wraps; wrap when the model is complete; load on all ranks, or before wrapping;
        reduce what is left out. Ranks that have parted are made equal again by loading one checkpoint on all.

    Misses:
        Matrices that a hand-made all-reduce leaves out from the first step on: they may be experts of each rank.
        Parameters that only some ranks' optimizers hold: each rank steps its share and hands it on, which nobody sees before
        the next step. Running
        statistics, which may differ between ranks by design; buffers other than codebooks are info, but for expert biases,
        and rotary frequencies that are far apart. A DDP model that steps within `no_sync()` may be local
        SGD: it is info until its weights have drifted ever further apart for `patience` steps. Distances below `distance` are info: they
        are what unlike machines make of the same numbers.
    """

    name = "replica-divergence"
    family = "ranks"
    severity = Severity.CRITICAL
    summary = "Ranks that should hold the same tensor hold different ones."
    reads = ("replicas_apart", "grad_spread")
    alert = Alert(summary="Replicas of one model have parted")
    thresholds = (
        Threshold(
            name="distance",
            default=1e-6,
            unit="of the tensor's norm",
            reason="some ulps of float32: unlike machines round the same sums otherwise",
        ),
        Threshold(
            name="spread",
            default=1e-3,
            unit="of the gradient's norm",
            reason="norms of different batches' gradients differ by more, those of equal ones by rounding",
        ),
        Threshold(
            name="looks",
            default=4,
            unit="looks",
            reason="equal so often by accident, or different so often in passing, is unlikely",
        ),
        Threshold(
            name="patience",
            default=64,
            unit="steps",
            reason="local SGD averages after fewer steps of each rank's own, mostly 4 to 32",
        ),
        Threshold(
            name="rotary",
            default=0.5,
            unit="of the tensor's norm",
            reason="frequencies that follow the context's length differ by a tenth; memory as found by about one",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        if view.world_size == 1:
            return
        yield from self._bits(view)
        yield from self._gradients(view)

    def _bits(self, view: View) -> Iterable[Claim]:
        with np.errstate(invalid="ignore"):
            apart = view.now("replicas_apart") > 0
            if not apart.any():
                return
            apart &= ~view.held_by_some
            declared = view.now("replicas_declared") == 1
            far = view.now("replica_distance") > self.threshold("distance", view)
        is_param, stays = view.tensors.is_param, ~(view.held | view.tensors.trainable)
        yield from self._declared(view, np.flatnonzero(apart & declared & is_param & ~stays), far)
        yield from self._frozen(view, np.flatnonzero(apart & declared & is_param & stays & far))
        yield from self._buffers(view, np.flatnonzero(apart & declared & ~is_param))
        trained = apart & ~declared & is_param & view.held & far
        yield from self._undeclared(view, np.flatnonzero(trained))

    def _declared(self, view: View, tensors: IntArray, far: BoolArray) -> Iterable[Claim]:
        stretch = parted(view, tensors)
        unsynced = is_unsynced(view)
        late = stretch.steps(view) >= self.threshold("patience", view)[tensors]
        advice = (
            "Call DDP's wrapper, not its .module, and see that no update is one rank's own; "
            "then load one checkpoint on all ranks."
        )
        sure = far[tensors]
        if unsynced:
            sure = sure & late & is_drifting(view, stretch)
        grave = Severity.WARNING if unsynced else Severity.CRITICAL
        yield from _claim(view, stretch, sure, _DIFFERS + ", since step {step}.", advice, grave)
        why = " (within no_sync(): local SGD?)." if unsynced else " (rounding?)."
        yield from _claim(view, stretch, ~sure, _DIFFERS + why, advice, Severity.INFO)

    def _frozen(self, view: View, tensors: IntArray) -> Iterable[Claim]:
        """No optimizer moves them: copies and averages may be one rank's business, other weights are not."""
        stretch = parted(view, tensors)
        begun = stretch.last_good < 0
        advice = "Load the frozen weights on every rank, or before the model is wrapped."
        text = _DIFFERS + ", and no optimizer holds it."
        yield from _claim(view, stretch, begun, text, advice, Severity.WARNING)
        yield from _claim(view, stretch, ~begun, text, advice, Severity.INFO)

    def _buffers(self, view: View, tensors: IntArray) -> Iterable[Claim]:
        """DDP sends rank 0's to all at the next forward; what counts tokens or statistics may differ until then."""
        local = view.tensors.mask(Role.RUNNING_STATISTIC, Role.EXPERT_COUNTER)
        rotary = self._rotary_apart(view, tensors)
        text = _DIFFERS + " (rotary frequencies)."
        advice = "Compute them anew on every rank after the model is materialised: they are in no checkpoint."
        yield from _claim(
            view,
            parted(view, rotary),
            np.ones(len(rotary), np.bool_),
            text,
            advice,
            Severity.WARNING,
        )
        tensors = tensors[~local[tensors] & view.tensors.persistent[tensors]]
        tensors = np.setdiff1d(tensors, rotary)
        stretch = parted(view, tensors)
        wrong = view.tensors.mask(Role.EXPERT_BIAS)[tensors]
        wrong |= view.tensors.mask(Role.CODEBOOK)[tensors] & beyond_one_update(view, tensors)
        wrong &= stretch.looks >= self.threshold("looks", view)[tensors]
        text = _DIFFERS + " (a buffer)."
        advice = "Update it from what all ranks have seen, after an all-reduce."
        yield from _claim(view, stretch, wrong, text, advice, Severity.WARNING)
        yield from _claim(view, stretch, ~wrong, text, advice, Severity.INFO)

    def _rotary_apart(self, view: View, tensors: IntArray) -> IntArray:
        """A base that follows the longest sequence of each rank moves all but the highest frequency a little."""
        with np.errstate(invalid="ignore"):
            far = view.now("replica_distance") > self.threshold("rotary", view)
        return tensors[(far & view.tensors.mask(Role.INV_FREQ))[tensors]]

    def _undeclared(self, view: View, tensors: IntArray) -> Iterable[Claim]:
        if not len(tensors):
            return
        looks = self.threshold("looks", view)[tensors]
        stretch = parted(view, tensors)
        proven = were_proven(view, stretch, looks)
        late = stretch.steps(view) >= self.threshold("patience", view)[tensors]
        late &= is_drifting(view, stretch)
        sure = proven & (late | _others_agree(view))
        advice = "Find what moves it on one rank only, such as an all-reduce that leaves it out."
        text = _DIFFERS + ", and was the same up to step {last_good_step}."
        yield from _claim(view, stretch, sure, text, advice, Severity.WARNING)
        yield from _claim(view, stretch, proven & ~sure, text, advice, Severity.INFO)
        shared = ~proven & have_one_gradient(view, tensors, looks)
        text = _DIFFERS + ", though all ranks step with the very same gradients."
        advice = "Give all ranks the same weights before the first step: broadcast them, or load one checkpoint."
        yield from _claim(view, stretch, shared, text, advice, Severity.WARNING)
        yield from self._left_out(view, stretch, ~proven & ~shared)

    def _left_out(self, view: View, stretch: Parted, rows: BoolArray) -> Iterable[Claim]:
        """Vectors and codebooks beside matrices that are all equal: what somebody averages, and what not."""
        tensors, table = stretch.tensors, view.tensors
        vector = np.array([len(table.shape[index]) == 1 for index in tensors], np.bool_)
        vector &= table.is_param[tensors]
        rows = rows & (vector | table.mask(Role.CODEBOOK)[tensors])
        looks = self.threshold("looks", view)[tensors]
        rows = rows & (stretch.looks >= looks)
        if rows.any() and are_replicas_otherwise(view, float(looks.max())):
            text = (
                _DIFFERS
                + ", while all trained matrices are equal: its gradients are left out of the reduction."
            )
            advice = "Reduce the gradients of every parameter, and what is updated outside the optimizer too."
            yield from _claim(view, stretch, rows, text, advice, Severity.WARNING)

    def _gradients(self, view: View) -> Iterable[Claim]:
        with np.errstate(invalid="ignore"):
            wide = view.now("grad_spread") > self.threshold("spread", view)
            together = view.latest("replicas_apart") == 0
            declared = view.latest("replicas_declared") == 1
        tensors = np.flatnonzero(wide & together & declared & view.held)
        if not len(tensors):
            return
        spread = self.threshold("spread", view)[tensors]
        stretch = gradients_apart(view, tensors, spread)
        often = stretch.looks >= self.threshold("looks", view)[tensors]
        severity = Severity.INFO if is_unsynced(view) else Severity.WARNING
        chosen = tensors[often]
        if len(chosen):
            yield Claim(
                tensors=chosen,
                key="gradients",
                message="The gradients of {fqn} are not the same on all ranks when the optimizer steps: their norms differ "
                "by {spread:.2g}, first on rank {rank}, though the weights are kept equal.",
                advice="See that the gradients are averaged before the step: otherwise only some ranks' data count.",
                evidence={
                    "rank": view.now("grad_apart")[chosen].astype(np.int64),
                    "spread": view.now("grad_spread")[chosen],
                    "looks": stretch.looks[often],
                },
                first_step=stretch.first[often],
                last_good_step=stretch.last_good[often],
                severity=severity,
            )


def _others_agree(view: View) -> bool:
    """Whether other parameters that nobody declared are equal on all ranks now, and moved."""
    with np.errstate(invalid="ignore"):
        agree = (view.now("replicas_apart") == 0) & (view.now("changed") > 0)
    return bool((agree & view.tensors.is_param & view.held).any())


def _claim(
    view: View,
    stretch: Parted,
    rows: BoolArray,
    message: str,
    advice: str,
    severity: Severity,
) -> Iterable[Claim]:
    if not rows.any():
        return
    tensors = stretch.tensors[rows]
    yield Claim(
        tensors=tensors,
        message=message,
        advice=advice,
        evidence={
            "rank": view.now("replica_apart")[tensors].astype(np.int64),
            "like_rank": view.now("replica_like")[tensors].astype(np.int64),
            "apart": view.now("replicas_apart")[tensors].astype(np.int64),
            "ranks": view.now("replicas")[tensors].astype(np.int64),
            "distance": view.now("replica_distance")[tensors],
        },
        first_step=stretch.first[rows],
        last_good_step=stretch.last_good[rows],
        severity=severity,
    )
