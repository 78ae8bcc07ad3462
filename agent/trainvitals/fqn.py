"""
Canonical names of tensors: one name for one tensor, whatever wraps the model today.

The canonical FQN is what links an attempt to the next, a rank to another and a checkpoint to the live model.
The raw name is kept beside it, because some faults are *about* raw names (torchtitan #961: keys that gained
`_orig_mod.`). Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# What torch.compile, activation checkpointing, FSDP1 and peft insert anywhere in a name.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|base_layer)\."
)
# What DDP, DataParallel and Float16Module put in front, more than once when they are nested.
_LEADING = re.compile(r"^(?:module\.)+")
_PEFT_PREFIX = "base_model.model."
_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$)")


def canonical_fqn(raw_fqn: str) -> str:
    """
    The name a tensor has once every known wrapper is taken off.

    >>> canonical_fqn("module._orig_mod.layers.0._checkpoint_wrapped_module.wq.weight")
    'layers.0.wq.weight'
    """
    name = raw_fqn
    while True:
        bare = _LEADING.sub("", _WRAPPERS.sub("", name)).removeprefix(_PEFT_PREFIX)
        if bare == name:
            return bare
        name = bare


def canonical_fqns(raw_fqns: Iterable[str]) -> list[str]:
    """Canonical names for a whole model; where two tensors would share one, both keep their raw names."""
    raw = list(raw_fqns)
    names = [canonical_fqn(name) for name in raw]
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    return [name if seen[name] == 1 else own for name, own in zip(names, raw, strict=True)]


def fqn_pattern(fqn: str) -> str:
    """
    The name with its numbers starred: what the same tensor of every layer has in common.

    >>> fqn_pattern("layers.11.moe.expert_bias")
    'layers.*.moe.expert_bias'
    """
    return _NUMBER.sub("*", fqn)
