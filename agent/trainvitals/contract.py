"""
What must hold of a run's state from its first step on: the built-in contract, and what the user declares.

A contract is data. The agent sends the user's part along; the monitor's detectors judge. No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from trainvitals.errors import BadSetting
from trainvitals.lock import Lock
from trainvitals.roles import Role, role_of

FLOAT_BITS = {
    "float64": 64,
    "float32": 32,
    "bfloat16": 16,
    "float16": 16,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
}
"""Width of torch's floating dtypes by name, as `str(dtype)` has them behind "torch."."""

MANTISSA_BITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}

# Each of these is updated in steps far below bf16's ulp, or summed past its integers (DESIGN 5; Megatron-LM #1482,
# #7081; transformers' inv_freq under .half()).
WIDE_ROLES = frozenset(
    {Role.EXPERT_BIAS, Role.EXPERT_COUNTER, Role.INV_FREQ, Role.RUNNING_STATISTIC}
)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """
    What the user declares of the training state; FQN patterns are globs over canonical names.

    `frozen`: never changes. `dtypes`: pattern -> dtype that a tensor must have. `ignore`: report nothing of these.
    `tied`: pairs of FQNs that must share one tensor. `total_steps`: planned optimizer steps. `thresholds`: detector ->
    pattern ("*": all) -> threshold -> value. `off`: detectors that are not asked. `lock`: what a file made by
    `trainvitals contract write` says of every tensor (contract_file.py).
    """

    frozen: Sequence[str] = ()
    tied: Sequence[tuple[str, str]] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)
    ignore: Sequence[str] = ()
    total_steps: int | None = None
    thresholds: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    off: Sequence[str] = ()
    lock: Lock | None = None

    def __post_init__(self) -> None:
        for pattern, dtype in self.dtypes.items():
            if dtype not in FLOAT_BITS and not dtype.startswith(("int", "uint", "bool")):
                raise BadSetting(
                    f"Contract(dtypes={{{pattern!r}: {dtype!r}}}): no such dtype; "
                    f"write it as torch does without 'torch.', such as 'float32'"
                )

    def as_json(self) -> dict[str, Any]:
        """Plain data for the frame's header; empty if nothing is declared."""
        return {key: value for key, value in asdict(self).items() if value}

    def over(self, other: Contract) -> Contract:
        """Both: what this one leaves empty is the other's."""
        return replace(other, **{key: getattr(self, key) for key in self.as_json()})


def matches(fqn: str, patterns: Sequence[str]) -> bool:
    """Whether any of the glob patterns matches the canonical FQN."""
    return any(fnmatchcase(fqn, pattern) for pattern in patterns)


def required_dtype(fqn: str, dtype: str, contract: Contract) -> str | None:
    """
    The dtype that this tensor should have but has not, or None when it is as it must be.

    The user's dtypes come first; then the built-in contract: expert biases, expert token counters, rotary inverse
    frequencies and running statistics are float32 or wider (integers are fine).
    """
    for pattern, wanted in contract.dtypes.items():
        if fnmatchcase(fqn, pattern):
            return wanted if dtype != wanted else None
    if FLOAT_BITS.get(dtype, 64) < 32 and role_of(fqn) in WIDE_ROLES:
        return "float32"
    return None
