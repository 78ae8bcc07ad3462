"""
The history: what is known of each run, in numpy columns, ranks merged; the `View` is all that detectors see of it.

    run.py          a run: its attempts, one after another
    attempt.py      one attempt: frames in, steps out
    rank.py         one rank's side: its tensor table, the order of its frames
    ranks.py        all of them: how far they are, who holds what
    holdings.py     what ranks say of their tensors, in numbers
    tensors.py      the attempt's tensor table, by canonical FQN
    waiting.py      what was not presented yet, and in which order it will be; pending.py: the rows of one step
    merge.py        the ranks' parts of one step make one row
    gathering.py    the same bit by bit, as ranks come
    replicas.py     who holds the same; alike.py: whether they say the same
    expert_loads.py the loads of routers that ranks share, added up
    series.py       the recent window, step-major
    schedule.py     how learning rates began and went on
    held.py         which optimizer holds which tensor, at what learning rate; rates.py: where one rank's have been
    optimizers.py   the ranks' reports of their optimizers as one
    digests.py      what tensors held, at a few steps
    checkpoints.py  the manifests of saves and loads, ranks merged
    previous.py     what an attempt leaves to the next: left.py gathers it, traces.py is its state by name
    lasting.py      what is known from steps whose frames were forgotten, over a restart
    remembered.py   steps of which only their series are left
    reference.py    what is kept of a run that others are compared with
    comparison.py   a run beside its reference
    starts.py       the states that both start from
    view.py         one judged step, as detectors see it
"""

from trainvitals_monitor.history.attempt import AttemptHistory
from trainvitals_monitor.history.checkpoints import Checkpoint
from trainvitals_monitor.history.comparison import Comparison, Differences
from trainvitals_monitor.history.digests import sketch_of
from trainvitals_monitor.history.previous import Previous
from trainvitals_monitor.history.reference import Reference
from trainvitals_monitor.history.run import RunHistory
from trainvitals_monitor.history.tensors import TensorTable
from trainvitals_monitor.history.view import EventAt, View

__all__ = [
    "AttemptHistory",
    "Checkpoint",
    "Comparison",
    "Differences",
    "EventAt",
    "Previous",
    "Reference",
    "RunHistory",
    "TensorTable",
    "View",
    "sketch_of",
]
