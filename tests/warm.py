"""
What nearly every rank of a test's training imports: for the process that they are forked from (tests/forked.py).
"""

from __future__ import annotations

import gc

import torch
import torch._dynamo  # the first optimizer of a process imports it, which takes as long as torch itself
import torch.distributed.checkpoint.state_dict

import tests.incidents.drive  # noqa: F401
import trainvitals.agent  # noqa: F401

torch.set_num_threads(1)
# What is there now is no object of the trainings', and need not be looked through (nor copied) in each of them.
gc.freeze()
