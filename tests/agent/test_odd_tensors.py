"""
Unusual tensors in a real training: none of them ends a probe, which would be a loss of sight for every other tensor,
and what can be read of them is right.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import trainvitals
from tests.agent.rig import Rig

pytestmark = [
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning"),
    pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning"),
]


UNSAVABLE = {
    "wrapped",
    "meta",
    "mkldnn",
    "quantized",
    "jagged",
    "short",
    "freed",
    "real_parts",
    "negative",
    "small_negative",
}
"""By torch itself, some of them beside the others."""


class Tagged(torch.Tensor):
    """A subclass: what it makes of its data is its own."""


class Wrapped(torch.Tensor):
    """A subclass that keeps its data in another tensor, and can't do anything with it but be detached."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapped:
        made: Wrapped = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.held = inner
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].held)
        raise NotImplementedError(func)


def unreadable() -> dict[str, torch.Tensor]:
    """Tensors of which there is no data."""
    freed, short = torch.zeros(8), torch.zeros(1 << 20)
    freed.untyped_storage().resize_(0)
    short.untyped_storage().resize_(64)
    pieces = [torch.ones(2), torch.ones(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "sparse": torch.eye(4).to_sparse(),
            "csr": torch.eye(4).to_sparse_csr(),
            "mkldnn": torch.zeros(4, 4).to_mkldnn(),
            "meta": torch.empty(4, device="meta"),
            "nested": torch.nested.nested_tensor(pieces),
            "jagged": torch.nested.nested_tensor(pieces, layout=torch.jagged),
            "lazy": nn.parameter.UninitializedBuffer(),
            "quantized": torch.quantize_per_tensor(torch.zeros(8), 0.1, 0, torch.qint8),
            "freed": freed,
            "short": short,
            "tagged": torch.zeros(4).as_subclass(Tagged),
            "wrapped": Wrapped(torch.zeros(4)),
        }


def readable() -> dict[str, torch.Tensor]:
    """Tensors that lie, or are typed, in unusual ways."""
    torch.manual_seed(0)
    shared = torch.randn(9000)
    complexes = torch.randn(6000, dtype=torch.complex64)
    with torch.inference_mode():
        inference = torch.randn(5000)
    return {
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.0),
        "complex": complexes,
        "conjugate": complexes.conj(),
        "negative": complexes.conj().imag,
        "real_parts": complexes.real,
        "small_negative": torch.randn(5, dtype=torch.complex64).conj().imag,
        "inference": inference,
        "flags": torch.ones(9, dtype=torch.bool),
        "unsigned": torch.arange(9000).to(torch.uint16),
        "fp8": torch.randn(9000).to(torch.float8_e5m2),
        "expanded": torch.randn(3, 1).expand(3, 5000),
        "strided": shared[::2],
        "shared": shared,
        "overlapping": shared.as_strided((80, 100), (1, 1)),
        "transposed": torch.randn(70, 80).t(),
        "channels_last": torch.randn(4, 8, 16, 16).to(memory_format=torch.channels_last),
        "odd_begin": torch.randn(9001).bfloat16()[1:],
        "huge": torch.full((5000,), 1e30),
        "tiny": torch.full((5000,), 1e-30),
    }


def model_with(tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A layer that trains, and these as its buffers."""
    model = nn.Module()
    model.register_module("layer", nn.Linear(3, 3))
    for name, tensor in tensors.items():
        model.register_buffer(name, tensor)
    return model


def test_no_part_is_switched_off(tmp_path: Path) -> None:
    """Steps and saves with all of them at once."""
    model = model_with({**unreadable(), **readable()})
    parameters = list(model.get_submodule("layer").parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    with trainvitals.attach(
        model, optimizer, run="odd", monitor=str(tmp_path), budget=None, quiet=True
    ) as agent:
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            torch.save({name: state[name] for name in state.keys() - UNSAVABLE}, io.BytesIO())
        coverage = agent.coverage()
    assert coverage["switched_off"] == coverage["failures"] == {}
    assert coverage["saves"] == 3
    assert coverage["tensors_seen"] == len(readable()) + len(parameters)


@pytest.mark.parametrize("name", readable())
def test_what_can_be_read_is_right(name: str) -> None:
    """Norms from every element, by cores or by a sweep."""
    tensor = readable()[name]
    model = model_with({name: tensor})
    rig = Rig(model)
    rig.round()
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    row = rig.row("values", name)
    assert row["exact"] == 1
    assert row["nonfinite"] == 0
    exact = float(np.linalg.norm(wide.resolve_conj().resolve_neg().flatten().numpy()))
    assert row["norm"] == pytest.approx(exact, rel=1e-6, abs=0)


@pytest.mark.parametrize("name", unreadable())
def test_what_can_not_is_no_data(name: str) -> None:
    """No row, whatever its memory holds."""
    model = model_with({name: unreadable()[name]})
    rig = Rig(model)
    rig.round()
    rig.round()
    assert rig.rows("values", name) == rig.rows("updates", name) == {}
    assert rig.row("values", "layer.weight")["norm"] > 0


@pytest.mark.parametrize("name", ["complex", "transposed", "channels_last", "odd_begin", "huge"])
def test_gradients_that_lie_in_unusual_ways(name: str) -> None:
    """Their norms are those of their elements."""
    tensor = readable()[name]
    model = nn.Module()
    model.register_parameter("weight", nn.Parameter(torch.zeros_like(tensor)))
    parameter = model.get_parameter("weight")
    parameter.grad = tensor
    rig = Rig(model)
    rig.round(torch.optim.SGD([parameter], lr=0.0))
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    exact = float(np.linalg.norm(wide.flatten().numpy()))
    assert rig.row("gradients", "weight")["grad_norm"] == pytest.approx(exact, rel=1e-6)
