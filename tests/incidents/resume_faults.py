"""
Small trainers that are saved, stopped and resumed: with something lost on the way, and the twin that loses nothing.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.incidents.healthy_runs.resuming import RESUME, Parts, resumed, saved
from tests.incidents.healthy_runs.run import Run, blobs, perceptron, warm_up_and_cosine
from tests.incidents.state_faults import StateFaults

FAULTS = StateFaults()


@FAULTS.of("moments-permuted", steps=60, onset=RESUME)
def moments_of_other_layers(healthy: bool) -> Run:
    """The second time, the parameters come in another order; layers of the same shape change places."""

    def make(attempt: int) -> Parts:
        model = perceptron(16, 16, 16, 16, 4)
        parameters = list(model.parameters())
        if attempt and not healthy:
            parameters = [*parameters[4:6], *parameters[:4], *parameters[6:]]
        return {"model": model, "optimizer": torch.optim.AdamW(parameters, lr=3e-3)}

    return resumed(make)


class _Normalised(nn.Module):
    """A network behind a normaliser of its own making."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.body = perceptron(16, 32, 4)
        self.register_buffer("mean", torch.zeros(16), persistent=persistent)
        self.register_buffer("scale", torch.ones(16), persistent=persistent)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(values.mean(0), 0.02)
                self.scale.lerp_(values.std(0), 0.02)
        return torch.as_tensor(self.body((values - self.mean) / self.scale))


@FAULTS.of("resume-discontinuity", steps=60, onset=RESUME, subject="mean")
def statistics_that_are_not_saved(healthy: bool) -> Run:
    """A running average in a non-persistent buffer begins at its initial value again."""

    def make(attempt: int) -> Parts:
        model = _Normalised(persistent=healthy)
        return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=3e-3)}

    return resumed(make)


def _batch_normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))


@FAULTS.of("resume-discontinuity", steps=60, onset=RESUME, subject="1.running")
def statistics_left_out_by_the_loader(healthy: bool) -> Run:
    """All is saved; only parameters are copied back."""

    def make(attempt: int) -> Parts:
        model = _batch_normed()
        return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.02, 0.9)}

    def load(parts: Parts, state: Parts) -> None:
        parts["optimizer"].load_state_dict(state["optimizer"])
        if healthy:
            parts["model"].load_state_dict(state["model"])
            return
        with torch.no_grad():
            for name, parameter in parts["model"].named_parameters():
                parameter.copy_(state["model"][name])

    return resumed(make, load=load)


@FAULTS.of("resume-discontinuity", steps=60, onset=RESUME, subject="4")
def head_left_out_by_the_loader(healthy: bool) -> Run:
    """The last layer is passed over in the load, and its moments are not."""

    def make(attempt: int) -> Parts:
        model = perceptron(16, 32, 32, 4)
        return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=3e-3)}

    def load(parts: Parts, state: Parts) -> None:
        parts["optimizer"].load_state_dict(state["optimizer"])
        kept = {name: each for name, each in state["model"].items() if healthy or name[0] != "4"}
        parts["model"].load_state_dict(kept, strict=False)

    return resumed(make, load=load)


@FAULTS.of("resume-discontinuity", steps=60, onset=RESUME)
def schedule_begun_again(healthy: bool) -> Run:
    """The scheduler is not in the checkpoint, and overwrites the optimizer's learning rate."""

    def make(attempt: int) -> Parts:
        model = perceptron(16, 32, 4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_and_cosine(10, 80))
        return {"model": model, "optimizer": optimizer, "scheduler": scheduler}

    def load(parts: Parts, state: Parts) -> None:
        parts["model"].load_state_dict(state["model"])
        parts["optimizer"].load_state_dict(state["optimizer"])
        if healthy:
            parts["scheduler"].load_state_dict(state["scheduler"])

    return resumed(make, load=load)


@FAULTS.of("load-incomplete", steps=60, onset=RESUME)
def prefix_that_one_part_has(healthy: bool) -> Run:
    """The neck was wrapped when it was saved: its keys have a prefix, and the load passes over them."""

    def make(attempt: int) -> Parts:
        model = nn.Sequential()
        model.add_module("body", perceptron(16, 32, 32, 32))
        model.add_module("neck", nn.Linear(32, 32))
        model.add_module("head", nn.Linear(32, 4))
        return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.02)}

    def load(parts: Parts, state: Parts) -> None:
        wrapped = {
            name if healthy or not name.startswith("neck") else f"_orig_mod.{name}": each
            for name, each in state["model"].items()
        }
        parts["model"].load_state_dict(wrapped, strict=False)

    return resumed(make, load=load)


@FAULTS.of("resume-mismatched", steps=60, onset=RESUME, subject="weight")
def average_loaded_as_the_weights(healthy: bool) -> Run:
    """Only the averaged model is in the checkpoint, and the optimizer; the twin has the model itself."""

    def make(attempt: int) -> Parts:
        model = perceptron(16, 32, 32, 4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
        optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
        return {"model": model, "optimizer": optimizer, "average": average.module}

    def save(parts: Parts) -> Parts:
        model = parts["model" if healthy else "average"]
        return {"model": model.state_dict(), "optimizer": parts["optimizer"].state_dict()}

    def load(parts: Parts, state: Parts) -> None:
        for name, each in state.items():
            parts[name].load_state_dict(each)

    return resumed(make, save=save, load=load)


@FAULTS.of("resume-discontinuity", steps=60, onset=RESUME, subject="average")
def average_made_anew_after_the_load(healthy: bool) -> Run:
    """All is saved and loaded; then the average is made, as at every start, from the model."""

    def make(attempt: int) -> Parts:
        model = nn.ModuleDict({"network": perceptron(16, 32, 4), "average": perceptron(16, 32, 4)})
        pairs = list(zip(model["average"].parameters(), model["network"].parameters(), strict=True))
        model["average"].load_state_dict(model["network"].state_dict())
        model["average"].requires_grad_(False)
        optimizer = torch.optim.AdamW(model["network"].parameters(), lr=3e-3)

        def follow(*_: object) -> None:
            with torch.no_grad():
                for mine, its in pairs:
                    mine.lerp_(its, 0.02)

        optimizer.register_step_post_hook(follow)
        model.forward = model["network"].forward
        return {"model": model, "optimizer": optimizer}

    def load(parts: Parts, state: Parts) -> None:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        if not healthy:
            model = parts["model"]
            model["average"].load_state_dict(model["network"].state_dict())

    return resumed(make, load=load)


@FAULTS.of("checkpoint-incomplete", steps=60, onset=RESUME - 1, subject="1.running")
def only_parameters_saved(healthy: bool) -> Run:
    """Running statistics are buffers; training goes on with the same objects."""
    model = _batch_normed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    def step(i: int) -> float:
        if i == RESUME:
            state = model.state_dict() if healthy else dict(model.named_parameters())
            saved({"model": state, "optimizer": optimizer.state_dict()})
        values, labels = blobs(i)
        loss = nn.functional.cross_entropy(model(values), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)
