"""
Trainers that hand over by themselves what the agent needs: one file a trainer, each a few lines over `attach()`.

None of these libraries is imported, nor needed, before its integration is.
"""

from __future__ import annotations

INTEGRATIONS = ("accelerate", "lightning", "megatron", "torchtitan", "transformers")
"""The modules here, each named after the library that it is for."""

__all__ = ["INTEGRATIONS"]
