"""
Objects of one class that are alive, from the interpreter's own list.
"""

from __future__ import annotations

import gc
from typing import Any


def alive(kind: type[Any]) -> list[Any]:
    """
    All of them, those of its subclasses too. Cost: one pass over the interpreter's objects (about 0.1 s).

    By type(), not isinstance(): that would ask lazy proxies for their __class__ and wake them up.
    """
    return [each for each in gc.get_objects() if issubclass(type(each), kind)]
