"""
torchtitan's own LoRA converter: a sound fine-tuning of adapters, or one with a step size far too large (`step`).
"""

import sys

import titan_cpu
from torchtitan.components.lora import LoRAConverter
from torchtitan.components.optimizer import default_adamw

from trainvitals.integrations.torchtitan import attach

config = titan_cpu.tiny(
    "llama3",
    steps=30,
    converters=[LoRAConverter.Config(rank=8, target_modules=["wqkv", "wo"])],
)
config.optimizer = default_adamw(lr=0.5 if sys.argv[1] == "step" else 1e-3)
trainer = config.build()
attach(trainer)
trainer.train()
trainer.close()
