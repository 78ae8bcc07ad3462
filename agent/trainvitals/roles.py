"""
What a tensor is for, read from its name: the few roles that detectors, watch lists and metrics treat apart.

A role is a hint by the field's naming habits (torchtitan, Megatron-LM, DeepSeek, peft, PyTorch), not a proof; each
pattern names the code it was read from. Add a role here and nowhere else.
"""

from __future__ import annotations

from enum import Enum
from fnmatch import fnmatchcase

from trainvitals.fqn import canonical_fqn


class Role(str, Enum):
    """The role of a tensor; `OTHER` for the great majority."""

    EXPERT_BIAS = "expert-bias"
    EXPERT_COUNTER = "expert-counter"
    INV_FREQ = "inv-freq"
    RUNNING_STATISTIC = "running-statistic"
    LORA_A = "lora-a"
    LORA_B = "lora-b"
    NORM = "norm"
    ROUTER = "router"
    CODEBOOK = "codebook"
    EMBEDDING = "embedding"
    OTHER = "other"


# First match wins. Globs over the canonical FQN, with a leading dot so that "*.gate.weight" also matches the root.
ROLE_PATTERNS: tuple[tuple[Role, tuple[str, ...]], ...] = (
    # torchtitan (0.3 adds shape suffixes: expert_bias_E), Megatron-LM, and DeepSeek-V3's name for the same thing
    (Role.EXPERT_BIAS, ("*.expert_bias", "*.expert_bias_E", "*.e_score_correction_bias")),
    (Role.EXPERT_COUNTER, ("*.tokens_per_expert", "*.tokens_per_expert_E", "*.local_tokens_per_expert")),
    (Role.INV_FREQ, ("*inv_freq*",)),
    (Role.RUNNING_STATISTIC, ("*.running_mean", "*.running_var", "*.num_batches_tracked")),
    # peft's ModuleDict (lora_A.default.weight), torchtune and torchtitan (lora_a.weight), lit-gpt (lora_A)
    (Role.LORA_A, ("*.lora_[Aa]", "*.lora_[Aa].*", "*.lora_embedding_A.*")),
    (Role.LORA_B, ("*.lora_[Bb]", "*.lora_[Bb].*", "*.lora_embedding_B.*")),
    (Role.ROUTER, ("*.router.weight", "*.router.gate.weight", "*.gate.weight", "*.router.*weight")),
    (Role.NORM, ("*norm.weight", "*norm.bias", "*norm?.weight", "*norm?.bias", "*.ln_?.weight", "*.ln_?.bias",
                 "*.ln_f.weight", "*.ln_f.bias", "*.bn?.weight", "*.bn?.bias")),
    # vector quantizers: lucidrains' and encodec's _codebook.embed, embed_avg, cluster_size; VQ-VAE's ema_cluster_size and
    # ema_w; taming-transformers' quantize.embedding.weight
    (Role.CODEBOOK, ("*codebook*", "*cluster_size", "*.embed_avg", "*.ema_w", "*._ema_w", "*quantize*.embed*")),
    (Role.EMBEDDING, ("*.tok_embeddings.weight", "*.embed_tokens.weight", "*.wte.weight", "*embedding*.weight")),
)  # fmt: skip


def role_of(fqn: str) -> Role:
    """The role of the tensor of this name; cost about 5 us, meant to be asked once per tensor."""
    name = "." + canonical_fqn(fqn)
    for role, patterns in ROLE_PATTERNS:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return role
    return Role.OTHER


WATCHED = frozenset(
    {Role.EXPERT_BIAS, Role.EXPERT_COUNTER, Role.INV_FREQ, Role.LORA_A, Role.LORA_B}
)
"""Roles that are looked at every step under any budget, and have metrics of their own."""
