"""
Runs for resume-discontinuity, resume-mismatched and moments-permuted: an attempt, its save, and one that goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, digest_of, tensor
from trainvitals.facts import MOMENT_SKETCH_SIZE, SKETCH_SIZE
from trainvitals.frame import TensorInfo
from trainvitals_monitor.detectors.moments_permuted import MomentsPermuted
from trainvitals_monitor.detectors.resume_discontinuity import ResumeDiscontinuity
from trainvitals_monitor.detectors.resume_mismatched import ResumeMismatched
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
WEIGHTS = ["embed.weight", *(f"layers.{layer}.weight" for layer in range(4)), "head.weight"]
STEPS = 40
Rows = dict[str, dict[str, Any]]


def _row(fqn: str, vector: np.ndarray[Any, Any]) -> dict[str, Any]:
    signs = np.random.default_rng(5).choice([-1.0, 1.0], (SKETCH_SIZE, len(vector)))
    sketch = signs @ vector
    return {
        "digest": digest_of(fqn, hash(vector.tobytes())),
        "square_sum": float(vector @ vector),
        **{f"sketch_{k}": float(sketch[k]) for k in range(SKETCH_SIZE)},
    }


def _vectors(trained: float) -> dict[str, np.ndarray[Any, Any]]:
    """Weights on their way from where they began (0) to where they are saved (1), and beyond."""
    found = {}
    for number, fqn in enumerate(WEIGHTS):
        draw = np.random.default_rng((3, number))
        found[fqn] = draw.normal(size=64) + trained * draw.normal(size=64)
    return found


def _rows(vectors: Mapping[str, np.ndarray[Any, Any]]) -> Rows:
    return {fqn: _row(fqn, vector) for fqn, vector in vectors.items()}


def _resumed(
    buffer: tuple[float, float, float],
    *,
    persistent: bool = True,
    usual_update: float = 0.05,
    weights: float = 1.02,
    lost: str = "",
    counter: int = STEPS + 1,
    rates: tuple[float, float, float] = (1e-3, 1e-3, 1e-3),
    revived: bool = False,
    warm_up: Sequence[float] = (),
) -> Stream:
    """
    A buffer that all of its elements hold: at first, at the end of the first attempt, at the beginning of the second;
    `rates`: the learning rate at the same moments, `warm_up`: those of the first steps, where they differ. `lost`: a weight that begins with other random numbers.
    """
    names: list[str | TensorInfo] = [
        *WEIGHTS,
        tensor("norm.running", kind="buffer", persistent=persistent),
    ]
    stream = Stream(names)
    stream.optimizers([WEIGHTS])
    states = [
        _vectors(trained) | {"norm.running": np.full(64, value)}
        for trained, value in zip((0.0, 1.0, weights), buffer, strict=True)
    ]
    if lost:
        states[2][lost] = np.random.default_rng(99).normal(size=64)
    stream.beginning(_rows(states[0]))
    updates = dict.fromkeys(WEIGHTS, 0.2) | {"norm.running": usual_update}
    for step in range(STEPS):
        rate = rates[1] if step > 4 else rates[0]
        rate = rates[0] if revived and step == 20 else rate
        rate = warm_up[step] if step < len(warm_up) else rate
        stream.step(updates=updates, counters=dict.fromkeys(WEIGHTS, step + 1), lr=rate)
    live = {
        fqn: row | {"live_digest": row["digest"], "live_square_sum": row["square_sum"]}
        for fqn, row in _rows(states[1]).items()
    }
    stream.checkpoint(path="step-40", rows=live, has_optimizer=True)
    stream.restart()
    stream.optimizers([WEIGHTS])
    stream.beginning(_rows(states[2]))
    for step in range(3):
        counters = dict.fromkeys(WEIGHTS, counter + step)
        stream.step(updates=updates, counters=counters, lr=rates[2])
    return stream


@SCENARIOS.fires(
    ResumeDiscontinuity, Severity.WARNING, first_step=STEPS + 1, subject="norm.running"
)
def statistics_back_at_their_beginning() -> Stream:
    """An average that was at 1 begins at 0.1 again."""
    return _resumed((0.0, 1.0, 0.1))


@SCENARIOS.fires(
    ResumeDiscontinuity, Severity.WARNING, subject="norm.running", says="not in the state_dict"
)
def statistics_that_no_state_dict_holds() -> Stream:
    """The same in a buffer that is not persistent."""
    return _resumed((0.0, 1.0, 0.0), persistent=False)


@SCENARIOS.fires(ResumeDiscontinuity, Severity.WARNING, subject="head.weight", says="unrelated")
def one_layer_initialised_again() -> Stream:
    """Its optimizer state goes on."""
    return _resumed((0.0, 1.0, 1.0), lost="head.weight")


def _adapted(base_moved: float, b_after: float) -> Stream:
    """Weights that go on, and a frozen one with an adapter: how far it is from before, and B at the new beginning."""
    base, a, b = "wq.weight", "wq.lora_A.default.weight", "wq.lora_B.default.weight"
    trained = [*WEIGHTS, a, b]
    stream = Stream([*trained, tensor(base, trainable=False)])
    stream.optimizers([trained])
    frozen = np.random.default_rng(7).normal(size=64)
    learnt = np.random.default_rng(8).normal(size=64)

    def rows(share: float, moved: float, adapter: float) -> Rows:
        vectors = _vectors(share) | {base: frozen + moved * learnt, a: learnt, b: adapter * learnt}
        return _rows(vectors)

    stream.beginning(rows(0.0, 0.0, 0.0))
    updates = dict.fromkeys(WEIGHTS, 0.2) | {a: 0.1, b: 0.1, base: 0.0}
    for step in range(STEPS):
        stream.step(updates=updates, counters=dict.fromkeys(trained, step + 1), lr=1e-3)
    live = {
        fqn: row | {"live_digest": row["digest"], "live_square_sum": row["square_sum"]}
        for fqn, row in rows(1.0, 0.0, 1.0).items()
    }
    stream.checkpoint(path="step-40", rows=live, has_optimizer=True)
    stream.restart()
    stream.optimizers([trained])
    stream.beginning(rows(1.02, base_moved, b_after))
    for step in range(3):
        counters = dict.fromkeys(WEIGHTS, STEPS + 1 + step)
        counters |= dict.fromkeys((a, b), step + 1 if b_after == 0 else STEPS + 1 + step)
        stream.step(updates=updates, counters=counters, lr=1e-3)
    return stream


@SCENARIOS.fires(ResumeDiscontinuity, Severity.WARNING, subject="wq.weight", says="adapter")
def base_that_holds_the_adapter_already() -> Stream:
    """It was merged when it was saved, and the adapter goes on."""
    return _adapted(0.2, 1.0)


@SCENARIOS.silent(ResumeDiscontinuity)
def adapter_merged_for_good() -> Stream:
    """ReLoRA at a restart: a new adapter, of which B is zero."""
    return _adapted(0.2, 0.0)


@SCENARIOS.silent(ResumeDiscontinuity)
def base_rounded_to_another_dtype() -> Stream:
    """By a thousandth."""
    return _adapted(0.001, 1.0)


@SCENARIOS.fires(ResumeDiscontinuity, Severity.WARNING, says="schedule was not restored")
def learning_rate_back_at_the_warm_up() -> Stream:
    """A tenth of what it was, as in the first steps."""
    return _resumed((0.0, 1.0, 1.0), rates=(1e-4, 1e-3, 1e-4))


@SCENARIOS.fires(
    ResumeDiscontinuity, Severity.WARNING, subject="ema.embed.weight", says="copy of its model"
)
def average_that_begins_as_a_copy() -> Stream:
    """It was half as far as its model, and is where that is."""
    return _averaged(1.02)


@SCENARIOS.silent(ResumeDiscontinuity)
def average_that_goes_on() -> Stream:
    """It is a little further than it was."""
    return _averaged(0.51)


def _averaged(average: float) -> Stream:
    """A model, of which an average is kept; `average`: how far that is at the beginning of the second attempt."""
    frozen = [tensor(f"ema.{fqn}", trainable=False) for fqn in WEIGHTS]
    stream = Stream([*(f"net.{fqn}" for fqn in WEIGHTS), *frozen])
    trained = [f"net.{fqn}" for fqn in WEIGHTS]
    states = [
        _rows({f"net.{fqn}": vector for fqn, vector in _vectors(way).items()})
        | _rows({f"ema.{fqn}": vector for fqn, vector in _vectors(behind).items()})
        for way, behind in ((0.0, 0.0), (1.0, 0.5), (1.02, average))
    ]
    updates = dict.fromkeys(trained, 0.2) | {one.fqn: 0.1 for one in frozen}
    stream.optimizers([trained])
    stream.beginning(states[0])
    for step in range(STEPS):
        stream.step(updates=updates, counters=dict.fromkeys(trained, step + 1), lr=1e-3)
    live = {
        fqn: row | {"live_digest": row["digest"], "live_square_sum": row["square_sum"]}
        for fqn, row in states[1].items()
    }
    stream.checkpoint(path="step-40", rows=live, has_optimizer=True)
    stream.restart()
    stream.optimizers([trained])
    stream.beginning(states[2])
    stream.step(updates=updates, counters=dict.fromkeys(trained, STEPS + 1), lr=1e-3)
    return stream


@SCENARIOS.fires(ResumeMismatched, Severity.WARNING, first_step=STEPS + 1, says="on the way back")
def average_in_the_place_of_the_weights() -> Stream:
    """Half-way back, while the counters go on."""
    return _resumed((0.0, 1.0, 1.0), weights=0.5)


@SCENARIOS.silent(ResumeMismatched)
def older_weights_and_older_counters() -> Stream:
    """The same with the counters of that time."""
    return _resumed((0.0, 1.0, 1.0), weights=0.5, counter=20)


@SCENARIOS.silent(ResumeMismatched)
def weights_that_went_on_unseen() -> Stream:
    """Half as far again, in steps that nobody saw."""
    return _resumed((0.0, 1.0, 1.0), weights=1.5, counter=STEPS + 20)


@SCENARIOS.silent(ResumeDiscontinuity, ResumeMismatched, MomentsPermuted)
def all_goes_on() -> Stream:
    """A few steps further on."""
    return _resumed((0.0, 1.0, 1.02))


@SCENARIOS.silent(ResumeDiscontinuity)
def all_rolled_back() -> Stream:
    """To the beginning, weights and learning rate too."""
    return _resumed((0.0, 1.0, 0.0), weights=0.1, rates=(1e-4, 1e-3, 1e-4))


@SCENARIOS.silent(ResumeDiscontinuity)
def scratch_buffer() -> Stream:
    """Each step writes it anew, and zeros are what it begins with."""
    return _resumed((0.0, 1.0, 0.0), persistent=False, usual_update=8.0)


@SCENARIOS.silent(ResumeDiscontinuity)
def metric_added_up() -> Stream:
    """A sum that grows by the same at each step."""
    return _resumed((0.0, 40.0, 0.0), persistent=False, usual_update=8.0)


@SCENARIOS.silent(ResumeDiscontinuity)
def new_head_with_a_new_optimizer() -> Stream:
    """A second phase."""
    return _resumed((0.0, 1.0, 1.0), lost="head.weight", counter=1)


@SCENARIOS.silent(ResumeDiscontinuity)
def schedule_in_cycles() -> Stream:
    """The learning rate came back up before."""
    return _resumed((0.0, 1.0, 1.0), rates=(1e-3, 1e-4, 1e-3), revived=True)


@SCENARIOS.silent(ResumeDiscontinuity)
def new_warm_up_to_another_peak() -> Stream:
    """It begins where the first one was at its third step."""
    return _resumed((0.0, 1.0, 1.0), rates=(2e-4, 1e-3, 6e-4), warm_up=(2e-4, 4e-4, 6e-4, 8e-4))


def _resumed_early(*rates: float) -> Stream:
    """A run that was saved after two steps of its warm-up, killed after six, and goes on from the save with these."""
    stream = Stream(WEIGHTS)
    stream.optimizers([WEIGHTS])
    stream.beginning(_rows(_vectors(0.0)))
    updates, saved = dict.fromkeys(WEIGHTS, 0.2), _rows(_vectors(1.0))
    for step in range(1, 7):
        stream.step(updates=updates, counters=dict.fromkeys(WEIGHTS, step), lr=step * 1e-4)
        if step == 2:
            live = {
                fqn: row | {"live_digest": row["digest"], "live_square_sum": row["square_sum"]}
                for fqn, row in saved.items()
            }
            stream.checkpoint(path="step-2", rows=live, has_optimizer=True)
    stream.restart(closed=False, base_step=2)
    stream.optimizers([WEIGHTS])
    stream.beginning(saved)
    for step, rate in enumerate(rates, 3):
        stream.step(updates=updates, counters=dict.fromkeys(WEIGHTS, step), lr=rate)
    return stream


@SCENARIOS.silent(ResumeDiscontinuity)
def warm_up_that_goes_on_from_its_second_step() -> Stream:
    """The rates of the steps that are done once more, as they were."""
    return _resumed_early(3e-4, 4e-4, 5e-4)


@SCENARIOS.fires(ResumeDiscontinuity, Severity.WARNING, first_step=3, says="again, as when the run")
def warm_up_that_begins_again_after_its_second_step() -> Stream:
    """Those of the run's first steps."""
    return _resumed_early(1e-4, 2e-4, 3e-4)


@SCENARIOS.silent(ResumeDiscontinuity)
def learning_rate_changed_by_hand() -> Stream:
    """To a value that it never had."""
    return _resumed((0.0, 1.0, 1.0), rates=(1e-3, 1e-3, 1e-4))


def _moments(
    now: Mapping[str, str],
    changed: float = 0.01,
    size: float = 1.0,
    counter: int = 42,
    apart: float = 1.0,
) -> Stream:
    """
    `now`: whose moments each parameter has after the restart (its own, if not named); each is `apart` times as large as
    the one before it, and gets that part of `changed`.
    """
    scales = {fqn: apart**k for k, fqn in enumerate(WEIGHTS)}
    vectors = {
        fqn: scales[fqn] * np.random.default_rng((8, k)).random(64) for k, fqn in enumerate(WEIGHTS)
    }
    signs = np.random.default_rng(5).choice([-1.0, 1.0], (MOMENT_SKETCH_SIZE, 64))

    def rows(source: Mapping[str, str], noise: float, scale: float) -> Rows:
        found = {}
        for number, fqn in enumerate(WEIGHTS):
            vector = scale * vectors[source.get(fqn, fqn)]
            noisy = noise * scales[fqn] * np.random.default_rng((9, number)).random(64)
            vector = vector + noisy
            sums = signs @ vector
            found[fqn] = {
                "first_moment": 1.0,
                "second_moment": float(np.linalg.norm(vector)),
                "moment_bits": 32,
                **{f"moment_sketch_{k}": float(each) for k, each in enumerate(sums)},
            }
        return found

    stream = Stream(WEIGHTS)
    stream.step(counters={"*": 40}, moments=rows({}, 0.0, 1.0))
    stream.restart()
    stream.step(counters={"*": counter}, moments=rows(now, changed, size))
    return stream


@SCENARIOS.fires(MomentsPermuted, Severity.CRITICAL, subject="layers.0.weight", first_step=2)
def two_layers_swapped() -> Stream:
    """Each has the other's."""
    return _moments({"layers.0.weight": "layers.1.weight", "layers.1.weight": "layers.0.weight"})


@SCENARIOS.fires(MomentsPermuted, Severity.CRITICAL, says="so for 6 parameters")
def all_layers_shifted_by_one() -> Stream:
    """The last one's moments went to the first."""
    return _moments(dict(zip(WEIGHTS, [*WEIGHTS[1:], WEIGHTS[0]], strict=True)))


_ROUND = dict(zip(WEIGHTS, [*WEIGHTS[1:], WEIGHTS[0]], strict=True))


@SCENARIOS.fires(MomentsPermuted, Severity.CRITICAL, says="belong to head.weight")
def moments_of_unlike_sizes() -> Stream:
    """Each has the next one's, a hundred times larger; the last one's new gradients hide whose it has."""
    return _moments(_ROUND, changed=0.03, apart=100.0)


@SCENARIOS.silent(MomentsPermuted)
def back_to_other_moments() -> Stream:
    """The same, and the counters say that all has gone back: it is not known what was there then."""
    return _moments(_ROUND, changed=0.03, apart=100.0, counter=30)


@SCENARIOS.silent(MomentsPermuted)
def moments_go_on() -> Stream:
    """A little further."""
    return _moments({})


@SCENARIOS.silent(MomentsPermuted)
def moments_that_changed_much() -> Stream:
    """Other data, larger gradients: far from what they were, and near nobody else's."""
    return _moments({}, changed=2.0)


@SCENARIOS.silent(MomentsPermuted)
def moments_of_a_new_optimizer() -> Stream:
    """Small ones."""
    return _moments({}, size=0.001, changed=0.001)


@SCENARIOS.silent(MomentsPermuted)
def one_copied_to_another() -> Stream:
    """Layers that were merged share their moments: only one has lost its own."""
    return _moments({"layers.0.weight": "layers.1.weight"})
