"""
Which detectors fit a fault of which family: the one table, of the detectors' names.
"""

from __future__ import annotations

FITS: dict[str, tuple[str, ...]] = {
    "bn": (
        "eval-mode-in-training",
        "batch-norm-frozen",
        "frozen-statistics-moved",
        "buffer-stuck",
    ),
    "buffer_unsaved": ("tensor-unregistered", "checkpoint-incomplete"),
    "checkpoint": (
        "checkpoint-stale",
        "checkpoint-incomplete",
        "resume-not-applied",
        "resume-mismatched",
        "resume-discontinuity",
        "load-incomplete",
    ),
    "codebook": ("codebook-collapse", "buffer-stuck", "parameter-stuck", "replica-divergence"),
    "coverage": (
        "parameter-not-in-optimizer",
        "optimizer-holds-dead-parameter",
        "tensor-unregistered",
        "gradient-missing",
        "gradient-zero",
        "parameter-stuck",
    ),
    "divergence": ("replica-divergence",),
    "dtype": ("contract-broken", "dtype-changed", "updates-lost", "buffer-stuck", "counter-stuck"),
    "inputs": ("batch-repeated", "replicas-fed-same-batch", "workers-fed-same-data"),
    "same_data": ("batch-repeated", "replicas-fed-same-batch", "workers-fed-same-data"),
    "ema": (
        "buffer-stuck",
        "batch-norm-frozen",
        "average-stuck",
        "average-aliased",
        "resume-discontinuity",
    ),
    "explosion": ("gradient-not-cleared", "gradient-explosion", "norm-explosion", "loss-spike"),
    "frozen": ("gradient-missing", "gradient-zero", "parameter-stuck"),
    "frozen_moves": ("frozen-parameter-moved", "base-weights-moved"),
    "identity": ("slot-replaced", "checkpoint-stale", "tensor-unregistered"),
    "keys": ("checkpoint-keys-changed", "resume-not-applied", "load-incomplete"),
    "lora": (
        "lora-a-growth",
        "lora-b-stuck",
        "lora-dead",
        "loss-at-chance",
        "load-incomplete",
        "gradient-missing",
        "parameter-not-in-optimizer",
        "frozen-parameter-moved",
        "base-weights-moved",
        "resume-discontinuity",
    ),
    "modes": ("eval-mode-in-training", "batch-norm-frozen", "dropout-lost"),
    "lost_update": ("updates-lost", "parameter-stuck"),
    "nonfinite": ("non-finite", "loss-non-finite"),
    "optimizer_state": (
        "optimizer-state-reset",
        "optimizer-state-low-precision",
        "moments-permuted",
        "resume-discontinuity",
    ),
    "overwritten": ("weights-overwritten",),
    "precision": (
        "gradient-clipped-away",
        "update-ratio-out-of-range",
        "updates-lost",
        "gradient-vanishing",
    ),
    "router": (
        "router-collapse",
        "router-untrained",
        "expert-load-imbalance",
        "expert-dead",
        "expert-bias-drift",
    ),
    "schedule": (
        "learning-rate-zero",
        "learning-rate-vanished",
        "learning-rate-jump",
        "schedule-ended-early",
        "schedule-overrun",
        "resume-discontinuity",
    ),
    "steps": ("steps-skipped",),
    "tied": ("tied-weights-broken", "slot-replaced"),
    "vanishing": ("norm-collapse", "gradient-vanishing", "gradient-zero"),
}
"""By family. One that is not in it is answered by any detector."""


ANY = "differs-from-reference"
"""Fits every family: it says where a run parts from a good one, whatever the reason."""
