"""
Which experts were chosen, read from what a router's module returns: with tensors only, and without a wait for a device.

Shapes: T tokens, E experts, K choices of a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

MAX_TOKENS = 1 << 14
"""Of more tokens a call every n-th is counted: a sample of so many tells a load as well."""


@dataclass(frozen=True)
class Choices:
    """How a router says what it has chosen: `experts` E, `chosen` K (0: unknown), `biased`: scores are not all."""

    experts: int
    chosen: int
    biased: bool

    def count(self, output: Any, counts: torch.Tensor) -> int:
        """
        Add this call's choices to `counts` [E + 1], int64; how many tokens were counted, 0 if it can't be told.

        Looked for in turn: choices [..., K] as integers; a map [..., E] of what was chosen, as booleans or 0 and 1; and
        scores [..., E], of which the K largest are chosen where no bias or mask stands between. Choices beyond E (slots
        of other ranks, as expert parallelism marks them) are counted in the last place.
        """
        tensors = [each for each in _plain(output) if each.dim() >= 2 and each.numel()]
        for read in (self._indices, self._map, self._scores):
            for tensor in tensors:
                chosen = read(tensor)
                if chosen is not None:
                    one = counts.new_ones(()).expand(chosen.numel())
                    counts.index_add_(0, chosen.reshape(-1), one)
                    return len(chosen)
        return 0

    def _indices(self, tensor: torch.Tensor) -> torch.Tensor | None:
        count = tensor.shape[-1]
        if tensor.dtype not in _INTEGERS or not 0 < count < self.experts:
            return None
        if self.chosen not in (0, count):
            return None
        return _some(tensor).long().clamp(-1, self.experts).remainder(self.experts + 1)

    def _map(self, tensor: torch.Tensor) -> torch.Tensor | None:
        if tensor.shape[-1] != self.experts or tensor.dtype not in (torch.bool, *_INTEGERS):
            return None
        places = torch.arange(self.experts, device=tensor.device)
        return torch.where(_some(tensor) != 0, places, self.experts)

    def _scores(self, tensor: torch.Tensor) -> torch.Tensor | None:
        if tensor.shape[-1] != self.experts or not tensor.dtype.is_floating_point:
            return None
        if self.biased or not 0 < self.chosen < self.experts:
            return None
        return _some(tensor).topk(self.chosen, -1).indices


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def _plain(output: Any) -> Iterator[torch.Tensor]:
    """The tensors in it, detached; none of a subclass (DTensor, fake ones), nor inside functorch's transforms."""
    for each in output if isinstance(output, (tuple, list)) else (output,):
        if type(each) is torch.Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(each):
            yield each.detach()


def _some(tensor: torch.Tensor) -> torch.Tensor:
    """[T, last], at most MAX_TOKENS rows of it, spread evenly."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows[:: -(-len(rows) // MAX_TOKENS)]
