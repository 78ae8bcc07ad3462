"""
A made-up model as large as they come, for tests and benchmarks of what must not grow with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.monitor.stream import Stream, tensor
from trainvitals.frame import TensorInfo

LAYERS = 126
_PROJECTIONS = (
    "attention.wq", "attention.wk", "attention.wv", "attention.wo", "ffn.w1", "ffn.w2", "ffn.w3",
)  # fmt: skip


def tensors(layers: int = LAYERS, experts: int = 19) -> list[TensorInfo]:
    """Some 80 tensors a layer with 19 experts: adapted projections, a router with its bias and counter, experts."""
    found = [tensor("tok_embeddings.weight"), tensor("output.weight")]
    for layer in range(layers):
        at = f"layers.{layer}"
        for name in _PROJECTIONS:
            found += [
                tensor(f"{at}.{name}.weight", shape=[64, 64], trainable=False),
                tensor(f"{at}.{name}.lora_A.default.weight", shape=[8, 64]),
                tensor(f"{at}.{name}.lora_B.default.weight", shape=[64, 8]),
            ]
        found += [
            tensor(f"{at}.moe.router.gate.weight", shape=[8, 64]),
            tensor(f"{at}.moe.expert_bias", kind="buffer", shape=[8]),
            tensor(f"{at}.moe.tokens_per_expert", kind="buffer", shape=[8], persistent=False),
            tensor(f"{at}.attention_norm.weight"),
        ]
        found += [
            tensor(f"{at}.moe.experts.{expert}.{name}.weight", shape=[64, 64])
            for expert in range(experts)
            for name in ("w1", "w2", "w3")
        ]
    return found


def stream(run: str, layers: int = LAYERS, steps: int = 2, world_size: int = 1) -> Stream:
    """A healthy training of it, of which rank 0 tells everything."""
    infos = tensors(layers)
    rng = np.random.default_rng(0)
    made = Stream(infos, run=run, world_size=world_size)
    params = [one.fqn for one in infos if one.kind == "param" and one.trainable]
    made.optimizers([params])
    biases = [one.fqn for one in infos if one.fqn.endswith("expert_bias")]
    counters = [one.fqn for one in infos if one.fqn.endswith("tokens_per_expert")]
    for step in range(steps):
        facts: dict[str, Any] = {
            "values": {one.fqn: 1.0 + rng.random() for one in infos},
            "updates": {fqn: 1e-3 * (1 + rng.random()) for fqn in params},
            "gradients": {fqn: 0.1 + rng.random() for fqn in params},
            "extremes": {fqn: (-1e-3 * (step + 1), 1e-3 * rng.random()) for fqn in biases},
            "routing": {fqn: {"effective_experts": 7.0 + rng.random()} for fqn in counters},
        }
        silent = dict.fromkeys(facts)
        others = dict.fromkeys(range(1, world_size), silent)
        made.step(**facts, loss=2.0, lr=1e-4, by_rank=others)
    made.flush()
    return made
