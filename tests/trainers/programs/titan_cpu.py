"""
torchtitan's own Trainer on a CPU: a tiny DeepSeek-V3 or Llama 3, and synthetic data.

Import this before torchtitan. titan_shims and titan_attention have what a CPU needs; the trainer, the models, the
optimizers, the checkpointer and the parallelism are torchtitan's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

for _name, _value in {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": os.environ.get("TITAN_PORT", "29533"),
}.items():
    os.environ.setdefault(_name, _value)

import titan_shims
import torch

torch.set_num_threads(1)
titan_shims.apply()

from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.config.configs import CompileConfig, ParallelismConfig, TrainingConfig


class Sequences(BaseDataLoader):
    """Arithmetic sequences modulo the vocabulary, others on each data-parallel rank."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        vocab: int = 256

    def __init__(self, config, *, dp_rank, seq_len, local_batch_size, **_):
        self._config, self._rank, self._drawn = config, dp_rank, 0
        self._shape = local_batch_size, seq_len

    def __iter__(self):
        rows, length = self._shape
        while True:
            generator = torch.Generator().manual_seed(1000 * self._rank + self._drawn)
            self._drawn += 1
            start = torch.randint(self._config.vocab, (rows, 1), generator=generator)
            text = (start + 7 * torch.arange(length + 1)) % self._config.vocab
            positions = torch.arange(length).expand(rows, -1).contiguous()
            inputs = {"input": text[:, :-1].contiguous(), "positions": positions}
            yield inputs, text[:, 1:].contiguous()

    def state_dict(self):
        return {"drawn": self._drawn}

    def load_state_dict(self, state):
        self._drawn = state["drawn"]


class NoText(BaseTokenizer):
    """The data are numbers already."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        pass

    def __init__(self, config, **_):
        super().__init__()
        self.eos_id = 0

    def encode(self, *_, **__):
        return [0]

    def decode(self, *_, **__):
        return ""

    def get_vocab_size(self):
        return 256


def tiny(
    model: str = "deepseek_v3",
    *,
    steps: int,
    checkpoints: bool = False,
    interval: int = 10,
    compiled: str = "",
    checkpointing: Any = None,
    converters: Any = None,
    **parallelism: Any,
) -> Any:
    """torchtitan's debug model with two layers; `compiled`: a backend; `converters`: of the model's
    configuration, such as LoRA's; `parallelism` as ParallelismConfig takes it."""
    if model == "deepseek_v3":
        from torchtitan.models.deepseek_v3 import model_registry
        from torchtitan.models.deepseek_v3.config_registry import deepseek_v3_debugmodel as debug
    else:
        from torchtitan.models.llama3 import model_registry
        from torchtitan.models.llama3.config_registry import llama3_debugmodel as debug
    config = debug()
    config.model_spec = model_registry("debugmodel", attn_backend="flex", converters=converters)
    parts = config.model_spec.model
    parts.layers = parts.layers[:2]
    config.override.imports = ["titan_attention.on_cpu"]
    config.loss = CrossEntropyLoss.Config(global_vocab_size=parts.vocab_size)
    config.dataloader = Sequences.Config()
    config.tokenizer = NoText.Config()
    config.dump_folder = "titan"
    config.metrics = MetricsProcessor.Config(log_freq=1)
    config.training = TrainingConfig(
        local_batch_size=4,
        seq_len=64,
        steps=steps,
        disable_cuda_graphs=True,
        mixed_precision_param="float32",
    )
    config.parallelism = ParallelismConfig(**parallelism)
    config.activation_checkpoint = checkpointing
    config.compile = CompileConfig(
        enable=bool(compiled), components=["model"], backend=compiled or "inductor"
    )
    config.checkpoint = CheckpointManager.Config(
        enable=checkpoints, folder="saves", interval=interval, last_save_model_only=False
    )
    return config
