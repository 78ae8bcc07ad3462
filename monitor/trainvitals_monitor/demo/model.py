"""
A small mixture-of-experts language model with torchtitan's load balancing: the demo's example of a user's model.

Shape suffixes: B batch, T position, D model, H hidden, E expert, K chosen experts, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, dim, bias=False)
        self.wv = nn.Linear(dim, dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """`[B, T, D]` to the same shape."""
        q, k, v = (
            w(x_BTD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for w in (self.wq, self.wk, self.wv)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out_BTD: Tensor = self.wo(mixed.transpose(1, 2).flatten(-2))
        return out_BTD


class Moe(nn.Module):
    """
    Experts chosen by a router whose balance is kept by `expert_bias`, without an auxiliary loss.

    The bias decides only which experts are chosen, never their weight. Nothing trains it by gradient: `balance` moves
    it a little towards the experts that had too few tokens (DeepSeek-V3; torchtitan does so before each step).
    """

    expert_bias: Tensor
    tokens_per_expert: Tensor

    def __init__(self, dim: int, hidden: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Linear(dim, num_experts, bias=False)
        self.w1 = nn.Parameter(torch.randn(num_experts, dim, hidden) / math.sqrt(dim))
        self.w2 = nn.Parameter(torch.randn(num_experts, hidden, dim) / math.sqrt(hidden))
        self.register_buffer("expert_bias", torch.zeros(num_experts))
        self.register_buffer("tokens_per_expert", torch.zeros(num_experts), persistent=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Every expert computes every token and most answers weigh nothing: simple, and quick for eight experts."""
        scores_BTE = torch.sigmoid(self.gate(x_BTD))
        chosen_BTK = (scores_BTE + self.expert_bias).topk(self.top_k, dim=-1).indices
        mask_BTE = torch.zeros_like(scores_BTE).scatter(-1, chosen_BTK, 1.0)
        if self.training:
            with torch.no_grad():
                self.tokens_per_expert.add_(mask_BTE.sum(dim=(0, 1)))
        weights_BTE = scores_BTE * mask_BTE
        weights_BTE = weights_BTE / weights_BTE.sum(dim=-1, keepdim=True)
        hidden_EBTH = F.gelu(torch.einsum("btd,edh->ebth", x_BTD, self.w1))
        return torch.einsum("ebth,ehd,bte->btd", hidden_EBTH, self.w2, weights_BTE)

    def balance(self, rate: float) -> Tensor:
        """How the bias should move now, `[E]`; starts the count of tokens again."""
        load_E = self.tokens_per_expert
        move_E = rate * torch.sign(load_E.mean() - load_E)
        load_E.zero_()
        return move_E - move_E.mean()


class Block(nn.Module):
    """Attention, then experts, each behind a norm and beside a residual."""

    def __init__(self, dim: int, num_heads: int, num_experts: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.ffn_norm = nn.LayerNorm(dim)
        self.moe = Moe(dim, hidden=dim, num_experts=num_experts, top_k=2)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """`[B, T, D]` to the same shape."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        out_BTD: Tensor = x_BTD + self.moe(self.ffn_norm(x_BTD))
        return out_BTD


class LanguageModel(nn.Module):
    """Tokens `[B, T]` to logits `[B, T, V]`."""

    def __init__(
        self,
        vocabulary: int,
        *,
        context: int = 64,
        dim: int = 64,
        num_layers: int = 3,
        num_heads: int = 4,
        num_experts: int = 8,
    ) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(vocabulary, dim)
        self.pos_embeddings = nn.Embedding(context, dim)
        self.layers = nn.ModuleList(Block(dim, num_heads, num_experts) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, vocabulary, bias=False)

    def init_weights(self) -> None:
        """Start values of what the base model has; not of what is added to it, such as LoRA's matrices."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, Moe):
                nn.init.normal_(module.w1, std=0.05)
                nn.init.normal_(module.w2, std=0.05)
                module.expert_bias.zero_()
                module.tokens_per_expert.zero_()

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of each next token."""
        positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD = self.tok_embeddings(tokens_BT) + self.pos_embeddings(positions_T)
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        logits_BTV: Tensor = self.output(self.norm(x_BTD))
        return logits_BTV


def moe_layers(model: nn.Module) -> list[Moe]:
    """The mixtures of experts in a model."""
    return [module for module in model.modules() if isinstance(module, Moe)]


def next_token_loss(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Cross entropy of each token after the first, given those before it."""
    logits_BTV = model(tokens_BT[:, :-1])
    return F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())
