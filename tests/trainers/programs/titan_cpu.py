"""
torchtitan's own Trainer on a CPU: a tiny DeepSeek-V3 or Llama 3, synthetic data, and the shims that a CPU needs.

Import this before torchtitan. Each shim says what it stands in for; the trainer, the models, the optimizers, the
checkpointer and the parallelism are torchtitan's.
"""

from __future__ import annotations

import os
import sys
import types
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

import torch
import torch._utils

torch.set_num_threads(1)

# torchtitan picks its device type when it is imported.
torch._utils._get_available_device_type = lambda: "cpu"


class _Memory:
    total_memory = 1 << 34


# Its metrics ask the device for its memory; torch.cpu has no such functions.
for _name, _function in {
    "get_device_name": lambda *_: "cpu",
    "get_device_properties": lambda *_: _Memory,
    "reset_peak_memory_stats": lambda *_: None,
    "empty_cache": lambda *_: None,
    "memory_stats": lambda *_: {},
    "memory_reserved": lambda *_: 0,
    "get_rng_state": torch.get_rng_state,
    "set_device": lambda *_: None,
}.items():
    if not hasattr(torch.cpu, _name):
        setattr(torch.cpu, _name, _function)


class _Absent(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *_, **__: None})


# Triton kernels, imported whether they are used or not.
for _name in ("", ".api", ".kernels"):
    _module = _Absent(f"torchtitan.distributed.minimal_async_ep{_name}")
    _module.__path__ = []
    sys.modules[_module.__name__] = _module

import torchtitan.distributed.utils
from torch.distributed.fsdp import FSDPModule
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.config.configs import CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.models.common.attention import FlexAttention, ScaledDotProductAttention

# A barrier on device ids, which gloo has not.
torchtitan.distributed.utils.set_pg_timeouts = lambda *_, **__: None

_divide = FSDPModule.set_gradient_divide_factor


def _divide_by_sum(self: FSDPModule, factor: float) -> None:
    self.set_force_sum_reduction_for_comms(True)  # gloo has no PREMUL_SUM
    _divide(self, factor)


FSDPModule.set_gradient_divide_factor = _divide_by_sum


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
    # FlexAttention has no backward pass on a CPU; torchtitan's other attention has.
    for _, _config, parent, place in list(parts.traverse(FlexAttention.Config)):
        replacement = ScaledDotProductAttention.Config()
        if isinstance(parent, list):
            parent[place] = replacement
        else:
            setattr(parent, place, replacement)
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
