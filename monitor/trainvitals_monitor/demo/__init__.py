"""
The demo: real training of a small model with a real fault in it, watched by a real monitor.

    runner.py    starts the monitor and the trainer, shows progress, prints what was found
    trainer.py   the trainer as a process
    train.py     the trainer (expert-bias, router-dtype, none); finetune.py and resume.py for the other faults
    model.py     a small mixture of experts; lora.py, text.py

The trainers are processes of their own and the only files here that import torch: they are examples to copy from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What can be chosen: the trainer that has it, for how many steps and attempts, and what is wrong with it."""

    name: str
    trainer: str
    steps: int = 240
    attempts: int = 1
    last_attempt_fails: bool = False
    story: str


FAULTS: tuple[Fault, ...] = (
    Fault(
        name="expert-bias",
        trainer="train",
        story="the expert bias is re-assigned instead of updated, so every checkpoint holds zeros "
        "(torchtitan #1222)",
    ),
    Fault(
        name="router-dtype",
        trainer="train",
        story="the routers' expert bias is cast to bfloat16, where its updates are rounded away "
        "(Megatron-LM #1482)",
    ),
    Fault(
        name="lora-explosion",
        trainer="finetune",
        steps=120,
        story="fine-tuning begins by wiping the weights that were loaded, and steps much too far "
        "(torchtitan #421)",
    ),
    Fault(
        name="compile-resume",
        trainer="resume",
        steps=60,
        attempts=3,
        last_attempt_fails=True,
        story="a resume renames the keys of the next checkpoint, so that nothing can resume from it "
        "(torchtitan #961)",
    ),
    Fault(name="none", trainer="train", story="nothing is wrong"),
)
FAULT_BY_NAME = {fault.name: fault for fault in FAULTS}
