"""
Runs for eval-mode-in-training, batch-norm-frozen and buffer-stuck.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals.contract import Contract
from trainvitals_monitor.detectors.batch_norm_frozen import BatchNormFrozen
from trainvitals_monitor.detectors.buffer_stuck import BufferStuck
from trainvitals_monitor.detectors.dropout_lost import DropoutLost
from trainvitals_monitor.detectors.eval_mode_in_training import EvalModeInTraining
from trainvitals_monitor.detectors.frozen_statistics_moved import FrozenStatisticsMoved
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
BODY = ["conv.weight", "head.weight"]
NORM = ["bn.weight", "bn.bias"]
STATISTICS = ["bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]


def _statistics(prefix: str = "") -> list[Any]:
    dtypes = ["float32", "float32", "int64"]
    return [
        tensor(prefix + name, kind="buffer", dtype=dtype)
        for name, dtype in zip(STATISTICS, dtypes, strict=True)
    ]


def _network(norm: bool = True) -> Stream:
    stream = Stream([*BODY, *NORM, *_statistics()] if norm else BODY)
    stream.optimizers([[*BODY, *NORM] if norm else BODY])
    return stream


def _train(stream: Stream, steps: int, *, still: Sequence[str] = (), **step: Any) -> Stream:
    """All tensors move, but for `still`."""
    updates = {"*": 0.01, **dict.fromkeys(still, 0.0)}
    return _stepped(stream, steps, {"values": {"*": 1.0}, "updates": updates, "lr": 0.1, **step})


def _stepped(stream: Stream, steps: int, step: dict[str, Any]) -> Stream:
    stream.step(steps=steps, **step)
    return stream


@SCENARIOS.fires(
    EvalModeInTraining, Severity.WARNING, subject="conv.weight", first_step=7, says="since step 7"
)
def left_in_eval_mode_after_a_validation() -> Stream:
    """All modules are in eval mode from the seventh step on; the agent says so four steps later."""
    stream = _network()
    stream.modes(dropouts=(1, 0))
    _train(stream, 9)
    stream.modes([*BODY, *NORM, *STATISTICS], dropouts=(1, 1), since=7)
    return _train(stream, 8, still=STATISTICS)


@SCENARIOS.fires(EvalModeInTraining, Severity.WARNING, says="3 dropouts")
def dropouts_alone_are_enough() -> Stream:
    """No batch norm, but dropout."""
    stream = _network(norm=False)
    stream.modes(dropouts=(3, 0))
    _train(stream, 5)
    stream.modes(BODY, dropouts=(3, 3))
    return _train(stream, 10)


def _rest_and_look_twice(stream: Stream, times: int, moves: bool) -> Stream:
    """Twenty steps at which nothing is looked at, in which all has moved, and two looks one after the other."""
    for _ in range(times):
        stream.step(steps=20, lr=0.1)
        for steps, change in ((21, 0.1), (1, 0.01 if moves else 0.0)):
            last = {"update_norm": change, "changed": int(change > 0), "since": steps}
            _stepped(stream, 1, {"values": {"*": 1.0}, "updates": {"*": last}, "lr": 0.1})
    return stream


@SCENARIOS.fires(EvalModeInTraining, Severity.WARNING, subject="conv.weight", first_step=31)
def left_in_eval_mode_where_most_steps_rest() -> Stream:
    """Two looks in a row show that it is trained in that mode."""
    stream = _network()
    stream.modes(dropouts=(1, 0))
    _train(stream, 10)
    _rest_and_look_twice(stream, 1, moves=True)
    stream.modes([*BODY, *NORM, *STATISTICS], dropouts=(1, 1), since=31)
    return _rest_and_look_twice(stream, 2, moves=True)


@SCENARIOS.silent(EvalModeInTraining)
def trained_in_the_steps_that_rest() -> Stream:
    """Each look comes when it is frozen and in eval mode; what moved it lies between them."""
    stream = _network()
    stream.modes(dropouts=(1, 0))
    _train(stream, 10)
    _rest_and_look_twice(stream, 1, moves=False)
    stream.modes([*BODY, *NORM, *STATISTICS], dropouts=(1, 1), since=31)
    return _rest_and_look_twice(stream, 6, moves=False)


@SCENARIOS.silent(EvalModeInTraining, BatchNormFrozen)
def modes_that_do_not_settle() -> Stream:
    """It is in eval mode for some looks, and after that now and then: nobody knows for how long."""
    stream = _network()
    stream.modes([*BODY, *NORM, *STATISTICS], dropouts=(1, 1))
    _train(stream, 4, still=STATISTICS)
    stream.modes(dropouts=(1, 0), settled=False)
    return _train(stream, 20, still=STATISTICS)


@SCENARIOS.silent(EvalModeInTraining)
def blip_of_train_mode() -> Stream:
    """In eval mode from the start, as some do by design, but for a look or two."""
    stream = _network()
    stream.modes([*BODY, *NORM, *STATISTICS], dropouts=(1, 1))
    _train(stream, 10, still=STATISTICS)
    stream.modes(dropouts=(1, 1), settled=False)
    _train(stream, 2, still=STATISTICS)
    stream.modes([*BODY, *NORM, *STATISTICS], dropouts=(1, 1))
    return _train(stream, 20, still=STATISTICS)


@SCENARIOS.silent(EvalModeInTraining)
def model_whose_mode_makes_no_difference() -> Stream:
    """Neither dropout nor batch norm: eval mode is worth a remark at most."""
    stream = _network(norm=False)
    stream.modes()
    _train(stream, 5)
    stream.modes(BODY)
    return _train(stream, 20)


@SCENARIOS.silent(EvalModeInTraining, BatchNormFrozen)
def trained_in_eval_mode_from_the_start() -> Stream:
    """Fine-tuning with frozen statistics and without dropout, as some do by design."""
    stream = _network()
    stream.modes([*BODY, *NORM, *STATISTICS], dropouts=(1, 1))
    return _train(stream, 20, still=STATISTICS)


@SCENARIOS.silent(EvalModeInTraining, BatchNormFrozen)
def batch_norms_frozen_late_by_design() -> Stream:
    """Only the batch norms are put in eval mode, as in quantisation-aware training."""
    stream = _network()
    stream.modes()
    _train(stream, 10)
    stream.modes([*NORM, *STATISTICS])
    return _train(stream, 20, still=STATISTICS)


@SCENARIOS.silent(EvalModeInTraining)
def block_that_is_thawed_after_a_rest_in_eval_mode() -> Stream:
    """Blocks are trained in turns; word of its train mode comes some steps after it moves again."""
    stream = _network()
    stream.modes(dropouts=(1, 0))
    _train(stream, 6)
    stream.retensor(BODY[0], trainable=False)
    stream.modes([BODY[0], *NORM, *STATISTICS], dropouts=(1, 0))
    _train(stream, 20, still=[BODY[0], *NORM, *STATISTICS])
    stream.retensor(BODY[0], trainable=True)
    stream.retensor(BODY[1], trainable=False)
    _train(stream, 4, still=[BODY[1]])
    stream.modes([BODY[1]], dropouts=(1, 0))
    return _train(stream, 20, still=[BODY[1]])


@SCENARIOS.silent(EvalModeInTraining)
def block_whose_rest_is_told_late() -> Stream:
    """It is in eval mode and frozen at once; steps rest, and that it is frozen has not been seen yet."""
    stream = _network()
    stream.modes(dropouts=(1, 0))
    _train(stream, 6)
    stream.modes([*BODY, *NORM, *STATISTICS], dropouts=(1, 0), since=7)
    stream.step(steps=10, values={"*": 1.0}, lr=0.1)
    last = {"update_norm": 0.01, "changed": 9, "since": 12}
    return _stepped(stream, 1, {"values": {"*": 1.0}, "updates": {"*": last}, "lr": 0.1})


@SCENARIOS.silent(EvalModeInTraining)
def frozen_backbone() -> Stream:
    """What is put in eval mode is not trained any more."""
    stream = _network()
    stream.modes(dropouts=(1, 0))
    _train(stream, 10)
    for name in [BODY[0], *NORM]:
        stream.retensor(name, trainable=False)
    stream.modes([BODY[0], *NORM, *STATISTICS], dropouts=(1, 1))
    return _train(stream, 20, still=[BODY[0], *NORM, *STATISTICS])


@SCENARIOS.silent(EvalModeInTraining)
def back_in_train_mode_soon() -> Stream:
    """Some steps in eval mode, and back."""
    stream = _network()
    stream.modes(dropouts=(1, 0))
    _train(stream, 10)
    stream.modes([*BODY, *NORM], dropouts=(1, 1))
    _train(stream, 6)
    stream.modes(dropouts=(1, 0))
    return _train(stream, 20)


@SCENARIOS.silent(EvalModeInTraining)
def teacher_in_eval_mode() -> Stream:
    """An averaged copy is always in eval mode, and no optimizer holds it."""
    stream = Stream([*BODY, "teacher.conv.weight"])
    stream.optimizers([BODY])
    stream.modes(["teacher.conv.weight"], dropouts=(2, 1))
    return _train(stream, 20)


@SCENARIOS.fires(BatchNormFrozen, Severity.WARNING, subject=STATISTICS[0], first_step=6)
def statistics_that_stop_in_train_mode() -> Stream:
    """The forward pass runs through a copy from the sixth step on."""
    stream = _network()
    stream.modes()
    _train(stream, 5)
    return _train(stream, 10, still=STATISTICS)


@SCENARIOS.silent(BatchNormFrozen)
def momentum_zero_to_keep_statistics() -> Stream:
    """The count of batches goes on, and statistics of a pre-training are kept by design."""
    stream = _network()
    stream.modes()
    return _train(stream, 20, still=STATISTICS[:2])


@SCENARIOS.fires(BatchNormFrozen, Severity.WARNING, subject=STATISTICS[0], first_step=1)
def momentum_zero_from_the_start() -> Stream:
    """Batches are counted, and of 64 channels the means are 0 and the variances 1."""
    stream = _network()
    stream.modes()
    values = {"*": 1.0, STATISTICS[0]: 0.0, STATISTICS[1]: 8.0}
    moved = {"*": 0.1, **dict.fromkeys(STATISTICS[:2], 0.0)}
    stream.step(values=values, updates=moved, gradients={"*": 1.0}, lr=1e-3, steps=4)
    return stream


@SCENARIOS.silent(BatchNormFrozen)
def statistics_switched_off() -> Stream:
    """`track_running_stats = False`: batch statistics only, by design."""
    stream = _network()
    stream.modes(untracked=[*NORM, *STATISTICS])
    return _train(stream, 20, still=STATISTICS)


@SCENARIOS.silent(BatchNormFrozen)
def batch_norm_that_is_not_used() -> Stream:
    """A branch of the model that no batch takes: its weight stands still as well."""
    stream = _network()
    stream.modes()
    return _train(stream, 20, still=[*NORM, *STATISTICS])


@SCENARIOS.silent(BatchNormFrozen)
def models_trained_one_after_the_other() -> Stream:
    """An ensemble in one run: a model waits, weights and statistics, while the next one is trained."""
    names = [prefix + name for prefix in ("model0.", "model1.") for name in (*BODY, *NORM)]
    buffers = [*_statistics("model0."), *_statistics("model1.")]
    stream = Stream([*names, *buffers])
    stream.optimizers([names])
    stream.modes()
    for waiting in ("model1.", "model0.", "model1."):
        _train(stream, 20, still=[f"{waiting}{name}" for name in (*BODY, *NORM, *STATISTICS)])
    return stream


@SCENARIOS.silent(BatchNormFrozen, BufferStuck)
def modes_unknown() -> Stream:
    """An agent that says nothing of modes gives no ground to judge them."""
    return _train(_network(), 20, still=STATISTICS)


TEACHER = [f"teacher.{name}" for name in STATISTICS]


def _mean_teacher(extra: Sequence[Any] = ()) -> Stream:
    stream = Stream(
        [
            *(f"student.{name}" for name in NORM),
            *_statistics("student."),
            *(tensor(f"teacher.{name}", trainable=False) for name in NORM),
            *_statistics("teacher."),
            *extra,
        ]
    )
    stream.optimizers([[f"student.{name}" for name in NORM]])
    return stream


OWN = {"*": 1.0, "teacher.bn.running_mean": 0.0, "student.bn.running_var": 3.0}


@SCENARIOS.fires(BufferStuck, Severity.WARNING, subject=TEACHER[0], first_step=1, says="student.bn")
def average_over_parameters_only() -> Stream:
    """The teacher's parameters follow, its statistics never do."""
    return _train(_mean_teacher(), 10, still=TEACHER, values=OWN)


@SCENARIOS.silent(BufferStuck)
def teacher_with_its_own_statistics() -> Stream:
    """A momentum encoder in train mode."""
    return _train(_mean_teacher(), 20, values=OWN)


@SCENARIOS.silent(BufferStuck)
def batch_norms_frozen_in_both() -> Stream:
    """The student's do not move either."""
    student = [f"student.{name}" for name in STATISTICS]
    return _train(_mean_teacher(), 20, still=[*TEACHER, *student], values=OWN)


@SCENARIOS.silent(BufferStuck)
def frozen_teacher() -> Stream:
    """A teacher of distillation: nothing of it moves."""
    own = [f"teacher.{name}" for name in NORM]
    return _train(_mean_teacher(), 20, still=[*TEACHER, *own], values=OWN)


@SCENARIOS.silent(BufferStuck)
def stochastic_weight_averaging() -> Stream:
    """torch's AveragedModel has its statistics made anew at the end."""
    counted = tensor("teacher.n_averaged", kind="buffer", dtype="int64", shape=[])
    return _train(_mean_teacher([counted]), 20, still=TEACHER, values=OWN)


@SCENARIOS.silent(BufferStuck)
def statistics_that_are_the_same_anyway() -> Stream:
    """The student's have not gone anywhere."""
    return _train(_mean_teacher(), 20, still=TEACHER)


def _dropouts(
    before: list[float], *, first: list[float], after: int = 20, both: bool = False
) -> Stream:
    """Two dropouts, at `first` in the first step and at `before` in the last one before one or both are at 0."""
    stream = _network()
    stream.modes(dropouts=(2, 0), rates=first)
    _train(stream, after)
    stream.modes(dropouts=(2, 0), rates=[0.0, 0.0 if both else first[1]], rates_before=before)
    return _train(stream, 10)


@SCENARIOS.fires(DropoutLost, Severity.WARNING, first_step=21, says="1 of 2 modules")
def dropout_overwritten_in_an_evaluation() -> Stream:
    """At 0.2 for 20 steps, and at 0."""
    return _dropouts([0.2, 0.2], first=[0.2, 0.2])


@SCENARIOS.fires(DropoutLost, Severity.INFO, first_step=21, says="2 of 2 modules")
def early_dropout_that_is_over() -> Stream:
    """All of them at once, as who trains so does it."""
    return _dropouts([0.2, 0.2], first=[0.2, 0.2], both=True)


@SCENARIOS.silent(DropoutLost)
def dropout_that_is_annealed() -> Stream:
    """It was at a hundredth before."""
    return _dropouts([0.01, 0.2], first=[0.2, 0.2])


@SCENARIOS.silent(DropoutLost)
def dropout_set_after_the_first_steps() -> Stream:
    """A setting that comes late."""
    return _dropouts([0.2, 0.2], first=[0.2, 0.2], after=3)


def _frozen(
    way: float, *, trained: bool = False, begun: float = 1.0, declared: bool = False
) -> Stream:
    """A batch norm with means of `begun` at first, `way` further after 20 steps; its weight is trained, or a head's."""
    shape = {"shape": [64]}
    stream = Stream(
        [
            tensor("conv.weight", shape=[64, 64], trainable=trained),
            tensor("bn.weight", trainable=trained, **shape),
            tensor("bn.running_mean", kind="buffer", **shape),
            tensor("bn.running_var", kind="buffer", **shape),
            "head.weight",
        ],
        contract=Contract(frozen=["bn.*", "conv.*"] if declared else []),
    )
    stream.optimizers([["conv.weight", "bn.weight", "head.weight"] if trained else ["head.weight"]])
    stream.modes()
    moving = {"head.weight": 0.1, "bn.running_mean": 0.1, "bn.running_var": 0.1}
    for step in range(20):
        mean = begun + way * step / 19
        digest = {f"sketch_{k}": mean * 8.0 for k in range(8)} | {"square_sum": 64 * mean**2}
        stream.step(
            values={"*": 8.0},
            updates={**moving, "*": 0.1 if trained else 0.0},
            digests={"bn.running_mean": digest | {"digest": step, "count": 64}},
            lr=1e-3,
        )
    return stream


@SCENARIOS.fires(FrozenStatisticsMoved, Severity.WARNING, subject="bn.running_mean", first_step=1)
def declared_frozen_and_in_train_mode() -> Stream:
    """Its means move by a standard deviation."""
    return _frozen(1.0, declared=True)


@SCENARIOS.silent(FrozenStatisticsMoved)
def declared_frozen_on_data_like_its_own() -> Stream:
    """Noise."""
    return _frozen(0.05, declared=True)


@SCENARIOS.silent(FrozenStatisticsMoved)
def declared_frozen_random_features() -> Stream:
    """A fresh network finds its statistics."""
    return _frozen(1.0, begun=0.0, declared=True)


@SCENARIOS.fires(FrozenStatisticsMoved, Severity.INFO, subject="bn.running_mean", first_step=1)
def backbone_frozen_and_in_train_mode() -> Stream:
    """The same, and nobody said so."""
    return _frozen(1.0)


@SCENARIOS.silent(FrozenStatisticsMoved)
def backbone_that_is_trained() -> Stream:
    """Its statistics have to follow."""
    return _frozen(1.0, trained=True)
