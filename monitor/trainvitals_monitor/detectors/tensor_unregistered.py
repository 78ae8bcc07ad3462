"""
The detector tensor-unregistered: state of the training that hangs on a module without its knowledge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from trainvitals.frame import UnregisteredSeen, UnregisteredTensor
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import Checkpoint, View

_AVERAGE = re.compile(r"(running|moving|ema)_.*(mean|avg|average|var|std|sigma|cov|moment)", re.I)
_MEAN = re.compile(r"(^|_)(mean|mu)s?($|_)", re.I)
_SPREAD = re.compile(r"(^|_)(var|variance|std|sigma|m2)s?($|_)", re.I)
_RECORD = re.compile(r"loss|acc|grad|metric|reward|score|time", re.I)


class TensorUnregistered(Detector):
    """
    Detects:
        A parameter that a module keeps in a plain list, tuple, dict or attribute, or a parameter of a module kept so, or
        the one parameter that a tensor kept so was made of (`nn.Parameter(...).to(...)` is none itself): it gets a new gradient at several steps, no optimizer holds it, and it does not move. Or it is trained, or a plain
        tensor moves as running statistics do (and is called so, or is a mean beside a variance of its shape), and a
        checkpoint to resume from lacks it. Info: what is only seen to be trained or to accumulate, and parameters
        of modules in eval mode (a frozen network that was meant to stay out).

    Why it matters:
        `parameters()` and `state_dict()` do not have it, `.to()`, `train()` and `eval()` do not reach it: layers stay as
        they were drawn, statistics begin anew at each resume.

    Known causes:
        Layers in a Python list instead of an `nn.ModuleList` (https://github.com/pytorch/pytorch/issues/59925);
        `nn.Parameter(...).to(device)` (https://github.com/pytorch/pytorch/issues/17484);
        statistics as `self.mean = torch.zeros(d)` instead of a buffer
        (https://github.com/Unity-Technologies/ml-agents/issues/4292).

    Fix:
        `nn.ModuleList`, `nn.ModuleDict`, `nn.ParameterList`; `self.register_buffer("running_mean", ...)`.

    Misses:
        What hangs on objects that are no modules; what is deeper than three containers. Statistics that nobody saves in
        a way that is seen. A network that is kept out of the model on purpose, in train mode, with gradients that
        nobody uses, is warned of as well.
    """

    name = "tensor-unregistered"
    family = "coverage"
    severity = Severity.WARNING
    summary = "A module holds trained or accumulating tensors that it has not registered."
    reads = ("UnregisteredSeen", "CheckpointSeen", "OptimizersSeen", "changed")
    alert = Alert(hold="1m", summary="Layers or statistics of the model are not registered with it")
    thresholds = (
        Threshold(
            name="gradients",
            default=6,
            unit="looks with a new gradient",
            reason="an optimizer of its own, such as a GAN's, may take its first step some steps later",
        ),
        Threshold(
            name="moves",
            default=12,
            unit="steps at which it moved",
            reason="over fewer, values drawn anew may look like ones that go on",
        ),
        Threshold(
            name="drift",
            default=1.5,
            unit="mean squared distance over two steps / over one",
            reason="1 for values drawn anew at each step, nearly 2 or more for averages and sums",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        tensors = _last_seen(view)
        if not tensors:
            return
        saves = view.checkpoints("save")
        kept = {name for save in saves for name in save.unregistered}
        lacking = next((save for save in saves if _is_settled(save, view)), None)
        yield from self._untrained(view, tensors)
        yield from self._trained(view, [one for one in tensors if one.fqn not in kept], lacking)
        yield from self._averages(view, [one for one in tensors if one.fqn not in kept], lacking)

    def _untrained(self, view: View, tensors: list[UnregisteredTensor]) -> Iterable[Claim]:
        least = self.value("gradients")
        found = [
            one
            for one in tensors
            if one.trainable and one.gradients >= least and not one.moves and not one.held
        ]
        # Where nothing moves at all, the step is what is missing.
        if not found or not (view.held & (view.latest("changed") > 0)).any():
            return
        meant = [one for one in found if not one.evaluating]
        yield _claim(
            view,
            meant or found,
            "{name} of shape {shape} and {others} other parameters hang on modules that have not registered them: they "
            "got gradients at {gradients} of {looks} steps, no optimizer holds them, and they never moved.",
            "Use nn.ModuleList, nn.ModuleDict or nn.ParameterList, and make the optimizer after that.",
            Severity.WARNING if meant else Severity.INFO,
            key="untrained" if meant else "set aside",
        )

    def _trained(
        self, view: View, tensors: list[UnregisteredTensor], lacking: Checkpoint | None
    ) -> Iterable[Claim]:
        least = self.value("gradients")
        found = [
            one
            for one in tensors
            if one.trainable and one.held and one.gradients >= least and one.moves >= least
        ]
        if found:
            yield _unsaved(
                view,
                found,
                "{name} of shape {shape} and {others} other parameters are trained, and the modules that they hang on have "
                "not registered them",
                lacking,
                "trained",
            )

    def _averages(
        self, view: View, tensors: list[UnregisteredTensor], lacking: Checkpoint | None
    ) -> Iterable[Claim]:
        moving = [one for one in tensors if self._accumulates(one)]
        statistics = [one for one in moving if _is_statistic(one, moving)]
        if moving:
            yield _unsaved(
                view,
                statistics or moving,
                "{name} of shape {shape} and {others} other tensors that no module has registered accumulate (they moved "
                "at {moves} of {looks} steps, each time on from where they were)",
                lacking if statistics else None,
                "statistics" if statistics else "accumulating",
            )

    def _accumulates(self, one: UnregisteredTensor) -> bool:
        return (
            not one.trainable
            and one.from_start
            and one.moves >= max(self.value("moves"), 0.75 * one.looks)
            and one.drift >= self.value("drift")
        )


def _last_seen(view: View) -> list[UnregisteredTensor]:
    """What the lowest rank that speaks of any said last."""
    found = view.past_events(UnregisteredSeen)
    rank = min((at.rank for at in found), default=0)
    return next((at.event.tensors for at in reversed(found) if at.rank == rank), [])


def _is_settled(save: Checkpoint, view: View) -> bool:
    """A checkpoint to resume from; what belongs to it may come in a file of its own until the next step."""
    over = save.step < view.step or (view.is_late and save not in view.new_checkpoints())
    return over and save.is_model and save.has_optimizer and not (save.failed or save.foreign)


def _is_statistic(one: UnregisteredTensor, others: Sequence[UnregisteredTensor]) -> bool:
    """By its name; or by that of its fellow: a mean and a variance of one module, of one shape."""
    module, _, name = one.fqn.rpartition(".")
    if _RECORD.search(name):
        return False
    if _AVERAGE.search(name):
        return True
    wanted = _SPREAD if _MEAN.search(name) else _MEAN if _SPREAD.search(name) else None
    return wanted is not None and any(
        other.fqn.rpartition(".")[0] == module
        and other.shape == one.shape
        and wanted.search(other.fqn.rpartition(".")[2])
        for other in others
    )


def _unsaved(
    view: View,
    found: list[UnregisteredTensor],
    what: str,
    lacking: Checkpoint | None,
    key: str,
) -> Claim:
    """A warning once there is a checkpoint that lacks them, info before."""
    advice = "Register them (register_buffer, nn.ModuleList, nn.ParameterList), or save and load them beside the model."
    if lacking is None:
        text = f"{what}: no state_dict will have them."
        return _claim(view, found, text, advice, Severity.INFO, key)
    text = f"{what}: the checkpoint{{path}} of step {{saved_step}} lacks them."
    return _claim(view, found, text, advice, Severity.WARNING, f"{key} unsaved", lacking)


def _claim(
    view: View,
    found: Sequence[UnregisteredTensor],
    message: str,
    advice: str,
    severity: Severity,
    key: str,
    save: Checkpoint | None = None,
) -> Claim:
    one = found[0]
    path = "" if save is None or not save.path else f" {save.path}"
    return Claim(
        message=message,
        advice=advice,
        evidence={
            "name": [one.fqn],
            "module": [one.module],
            "shape": [str(one.shape)],
            "others": [len(found) - 1],
            "looks": [one.looks],
            "gradients": [one.gradients],
            "moves": [one.moves],
            "drift": [one.drift],
            "path": [path],
            "saved_step": [-1 if save is None else save.step],
        },
        first_step=view.base_step + 1,
        severity=severity,
        key=key,
    )
