"""What the torchtitan snippet of docs/integrations.md takes for granted: a configuration."""

import os

import titan_cpu

shared = {"data_parallel_shard_degree": 2, "spmd_backend": "partial_dtensor"}
config = titan_cpu.tiny(
    steps=16,
    checkpoints=True,
    interval=8,
    **(shared if os.environ["WORLD_SIZE"] == "2" else {}),
)
