"""
A small decoder for the healthy runs, and the texts that it learns: the help topics that come with Python.
"""

from __future__ import annotations

from functools import cache
from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn import functional as F

from tests.incidents.healthy_runs.run import generator


@cache
def characters() -> tuple[torch.Tensor, int]:
    """The whole text as numbers, and how many different characters there are."""
    text = "\n".join(topics[name] for name in sorted(topics))[:200_000]
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    return torch.tensor([alphabet[character] for character in text]), len(alphabet)


def text_batch(
    step: int, size: int = 8, length: int = 32, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pieces of the text and the same moved on by one character: [size, length] each."""
    text, _ = characters()
    starts = torch.randint(
        0, len(text) - length - 1, (size,), generator=generator(3, seed, step)
    ).tolist()
    pieces = torch.stack([text[start : start + length + 1] for start in starts])
    return pieces[:, :-1], pieces[:, 1:]


class Attention(nn.Module):
    """Causal self-attention; the mask is a float buffer of 0 and -inf."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        mask = torch.full((context, context), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = self.get_buffer("mask")[:length, :length]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class Block(nn.Module):
    """Attention and a feed-forward part, each normalised before."""

    def __init__(
        self, width: int, heads: int, context: int, dropout: float, feed: nn.Module
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, context)
        self.norm2 = nn.LayerNorm(width)
        self.feed = feed
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        out: torch.Tensor = x + self.dropout(self.feed(self.norm2(x)))
        return out


class Decoder(nn.Module):
    """A character model; `tied`: its head is the embedding. `feed`: what makes the feed-forward parts."""

    def __init__(
        self,
        width: int = 24,
        layers: int = 2,
        context: int = 32,
        dropout: float = 0.0,
        tied: bool = False,
        feed: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        _, num_characters = characters()
        self.embedding = nn.Embedding(num_characters, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(
            Block(width, 4, context, dropout, feed(width) if feed else FeedForward(width))
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_characters, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        out: torch.Tensor = self.head(self.norm(x))
        return out

    def loss(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the next character."""
        return F.cross_entropy(self(ids).flatten(0, 1), labels.flatten())


class FeedForward(nn.Sequential):
    """Twice as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
