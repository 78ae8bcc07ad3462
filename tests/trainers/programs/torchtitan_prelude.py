"""What the torchtitan snippet of docs/integrations.md takes for granted: a configuration."""

import titan_cpu

config = titan_cpu.tiny(steps=16, checkpoints=True, interval=8)
