"""
Real English text that is on every machine: CPython's own help (`pydoc_data.topics`), as batches of characters.
"""

from __future__ import annotations

from pydoc_data.topics import topics

import torch
from torch import Tensor


class Text:
    """The help text as numbers, one per character."""

    def __init__(self) -> None:
        text = "\n".join(topics.values())
        self.alphabet = sorted(set(text))
        number = {character: index for index, character in enumerate(self.alphabet)}
        self._tokens = torch.tensor([number[character] for character in text])

    def batch(self, step: int, *, size: int = 16, length: int = 65) -> Tensor:
        """`[size, length]` tokens cut at random places; the same for the same step, so that a resume goes on."""
        generator = torch.Generator().manual_seed(step)
        starts = torch.randint(len(self._tokens) - length, (size, 1), generator=generator)
        return self._tokens[starts + torch.arange(length)]
