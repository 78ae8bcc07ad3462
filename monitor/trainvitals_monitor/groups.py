"""
What several FQN patterns have in common: the name of the group that one fault's subjects form.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

EVERYTHING = "*"


def common_pattern(patterns: Sequence[str]) -> str:
    """
    The narrowest glob of whole name parts that fits all patterns.

    >>> common_pattern(["layers.*.attention.wq.lora_A.weight", "layers.*.mlp.w1.lora_A.weight"])
    'layers.*.lora_A.weight'
    >>> common_pattern(["bn1.weight", "fc.bias"])
    '*'
    """
    if len(set(patterns)) == 1:
        return patterns[0]
    names = [pattern.split(".") for pattern in patterns]
    shortest = min(len(name) for name in names)
    head = _agreeing(names, shortest)
    tail = _agreeing([name[::-1] for name in names], shortest - len(head))[::-1]
    parts = [*head, EVERYTHING, *tail]
    return ".".join(
        part for i, part in enumerate(parts) if parts[i - 1 : i] != [part] or part != EVERYTHING
    )


def covers(group: str, pattern: str) -> bool:
    """Whether a group's name fits the pattern too, so that its tensors belong to it."""
    return fnmatchcase(pattern, group)


def _agreeing(names: Sequence[Sequence[str]], most: int) -> list[str]:
    """The parts that all names begin with."""
    agreed: list[str] = []
    for parts in list(zip(*names, strict=False))[:most]:
        if len(set(parts)) > 1:
            break
        agreed.append(parts[0])
    return agreed
