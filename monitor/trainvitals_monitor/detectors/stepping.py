"""
How large a step an optimizer means to take, by its kind: which tensors are held by one of which kind.
"""

from __future__ import annotations

import re

import numpy as np

from trainvitals_monitor.detectors.detector import BoolArray
from trainvitals_monitor.history import View

NORMALISING = re.compile(
    r"adam|ada|lion|lamb|muon|rmsprop|rprop|shampoo|soap|sophia|prodigy|lars|came", re.IGNORECASE
)
"""Their step has the size of the learning rate, however small the gradient is."""
RELATIVE = re.compile(r"lamb|lars|adafactor|came", re.IGNORECASE)
"""Of these, those that take the learning rate as a share of the weight's own size."""
SATISFIED = re.compile(r"lbfgs", re.IGNORECASE)
"""They end a step without a move when the gradient or the change is small enough to them."""


def stepped_by(view: View, kind: re.Pattern[str]) -> BoolArray:
    """Per tensor, whether an optimizer of this kind holds it; made once per attempt."""
    return view.cached(f"stepped by {kind.pattern}", lambda: _stepped_by(view, kind))


def _stepped_by(view: View, kind: re.Pattern[str]) -> BoolArray:
    mask = np.zeros(view.num_tensors, np.bool_)
    seen = view.optimizers
    if seen is not None:
        for group, tensors in zip(seen.group_optimizer, seen.group_tensors, strict=True):
            if kind.search(seen.optimizers[group]):
                mask[[index for index in tensors if index >= 0]] = True
    return mask
