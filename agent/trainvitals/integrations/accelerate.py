"""
Accelerate: what its Accelerator has prepared, and what is logged through it.

    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    agent = attach(accelerator)
"""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

import trainvitals
from trainvitals.integrations.naming import with_run


class TrainvitalsTracker(GeneralTracker):
    """A tracker among the Accelerator's others: `accelerator.log(values, step)` reaches the agent."""

    name = "trainvitals"
    requires_logging_directory = False
    main_process_only = False

    def __init__(self, agent: trainvitals.Agent) -> None:
        super().__init__()
        self._agent = agent

    @property
    def tracker(self) -> trainvitals.Agent:
        """The agent, for `accelerator.get_tracker("trainvitals", unwrap=True)`."""
        return self._agent

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """The loss, and every other number."""
        numbers = {
            name: value
            for name, value in values.items()
            if name.isidentifier() and not isinstance(value, str)
        }
        self._agent.log(step=step, **numbers)

    def finish(self) -> None:
        """`accelerator.end_training()`."""
        self._agent.close()


def attach(accelerator: Accelerator, **settings: Any) -> trainvitals.Agent:
    """
    Watch what this Accelerator has prepared; call it after `prepare()` and, if you use it, `init_trackers()`.

    `settings` are those of `trainvitals.attach`. The tracker is taken off the Accelerator again by `close()`.
    """
    project = accelerator.project_configuration.project_dir
    agent = trainvitals.attach(
        accelerator._models,
        accelerator._optimizers,
        **{
            "mesh": accelerator.torch_device_mesh or data_parallel(accelerator),
            **with_run(settings, project and project.rstrip("/").rpartition("/")[2]),
        },
    )
    tracker = TrainvitalsTracker(agent)
    accelerator.trackers.append(tracker)
    agent.at_close(
        "accelerate.Accelerator: trackers",
        lambda: _take_off(accelerator, tracker),
    )
    return agent


def data_parallel(accelerator: Accelerator) -> dict[str, tuple[int, int]]:
    """Without a mesh, every process has data of its own."""
    return {"dp": (accelerator.process_index, accelerator.num_processes)}


def _take_off(accelerator: Accelerator, tracker: TrainvitalsTracker) -> None:
    accelerator.trackers[:] = [other for other in accelerator.trackers if other is not tracker]
