"""
The core: a small, fixed, repeatable cut of a tensor, at positions that every rank agrees on without talking.

Where to cut (positions.py), cutting (cut.py), comparing two cuts (compare.py) and digests (digest.py). Positions and
digests are part of the format, like the wire: a checkpoint's digest of last year is compared with today's. On CUDA
cuts stay on the device, and comparing or digesting copies each batch of up to 64k elements to the host; nothing of
that was measured.
"""

from trainvitals.cores.compare import Differences, Mask, compare, nonzero
from trainvitals.cores.cut import cut, cut_many
from trainvitals.cores.digest import digest_many
from trainvitals.cores.positions import CORE_ELEMENTS, CorePlan, plan_cores

__all__ = [
    "CORE_ELEMENTS",
    "CorePlan",
    "Differences",
    "Mask",
    "compare",
    "cut",
    "cut_many",
    "digest_many",
    "nonzero",
    "plan_cores",
]
