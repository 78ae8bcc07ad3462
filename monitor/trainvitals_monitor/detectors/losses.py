"""
Which of the logged numbers are losses of the training, by their names.
"""

from __future__ import annotations

import re
from functools import lru_cache

from trainvitals_monitor.history import View

_PARTS = re.compile(r"[^a-z0-9]+")
# A word of the name that makes it something else: of other data, or no loss at all ("loss_scale").
_OTHERS = frozenset(
    {"val", "valid", "validation", "eval", "evaluation", "test", "dev", "scale", "scaler", "weight"}
    | {"coef", "coefficient", "backward", "best", "count"}
)
_PLAIN = frozenset(
    {"loss", "train", "training", "lm", "ce", "nll", "xent", "cross", "entropy", "step"}
)


def training_losses(view: View) -> list[str]:
    """Names of scalars that are losses of the training, parts of it included ("aux_loss")."""
    return [
        name for name in view.scalar_names if "loss" in _words(name) and not _words(name) & _OTHERS
    ]


def main_losses(view: View) -> list[str]:
    """Those that are the loss as such: "loss", "train/loss", "lm_loss"."""
    return [name for name in training_losses(view) if _words(name) <= _PLAIN]


@lru_cache(maxsize=4096)
def _words(name: str) -> frozenset[str]:
    return frozenset(word for word in _PARTS.split(name.lower()) if word)
