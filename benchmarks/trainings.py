"""
What is trained where an overhead is measured; float32 on the CPU, one thread, the same numbers every time it is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, WIDTH, LAYERS, HEADS = 12_000, 512, 6, 8
BATCH, LENGTH = 2, 128


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Residuals around both."""
        batch, length, _ = x_BTD.shape
        qkv = self.qkv(self.norm_1(x_BTD)).view(batch, length, 3, HEADS, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.out(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        up_BTD: torch.Tensor = self.down(functional.gelu(self.up(self.norm_2(x_BTD))))
        return x_BTD + up_BTD


class GPT(nn.Module):
    """As nanoGPT writes it: 25 million parameters in 76 tensors. The head has the embedding's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """The logits of each next token."""
        x_BTD = self.tokens(tokens_BT) + self.places.weight[: tokens_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits: torch.Tensor = self.head(self.norm(x_BTD))
        return logits


class Training(ABC):
    """A model, its optimizer, and one step after the other."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)

    @abstractmethod
    def step(self) -> torch.Tensor:
        """One optimizer step; its loss, which nobody has waited for."""


class SmallGPT(Training):
    """
    A GPT on random tokens by AdamW, gradients clipped. A step reads 256 tokens: few, so that what it costs besides
    arithmetic is not hidden behind it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = GPT()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=0.1)

    def step(self) -> torch.Tensor:
        """Forward, backward, clip, update."""
        tokens_BT = torch.randint(VOCABULARY, (BATCH, LENGTH + 1))
        logits = self.model(tokens_BT[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.detach()


class Layers(Training):
    """`count` tensors of `shape`, trained by plain SGD towards 0: next to no work but the optimizer's own."""

    def __init__(self, count: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.model = nn.ParameterList(nn.Parameter(torch.randn(shape)) for _ in range(count))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, foreach=True)

    def step(self) -> torch.Tensor:
        """Every gradient is its parameter."""
        parameters = list(self.model.parameters())
        for parameter in parameters:
            parameter.grad = parameter.detach().clone()
        self.optimizer.step()
        first: torch.Tensor = parameters[0].detach().flatten()[0]
        return first


class SteadyLayers(Layers):
    """The same by AdamW, with gradients that stay where they are: each step ends with the memory that it began with."""

    def __init__(self, count: int, shape: tuple[int, int]) -> None:
        super().__init__(count, shape)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def step(self) -> torch.Tensor:
        """Every gradient is its parameter."""
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            parameter.grad.copy_(parameter.detach())
        self.optimizer.step()
        first: torch.Tensor = next(iter(self.model.parameters())).detach().flatten()[0]
        return first


class Perceptron(Training):
    """`depth` linear layers with their biases: two tensors a layer, and steps as short as `width` and `batch` say."""

    def __init__(self, depth: int, width: int, batch: int) -> None:
        super().__init__()
        layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
        self.model = nn.Sequential(*layers)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self._batch = torch.randn(batch, width)

    def step(self) -> torch.Tensor:
        """Forward, backward, update."""
        loss: torch.Tensor = (self.model(self._batch) - self._batch).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()
