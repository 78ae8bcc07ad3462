"""
What can't be known of this training, and why: said at attach, and kept in the coverage, instead of being guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from trainvitals.slots import SlotTable

_FLAT = (
    "FSDP1 (FullyShardedDataParallel) keeps flat shards: each rank's part is looked at by itself, and ranks' parts are not "
    "put together; fully_shard (FSDP2) has shards whose place is known"
)
_DEEPSPEED = (
    "DeepSpeed's optimizers step on partitions of their own, unseen by torch's hooks: call agent.step() after each "
    "engine.step() that ends an accumulation; gradients, and which tensors the optimizer holds, are not known, nor "
    "anything of weights that ZeRO-3 has partitioned"
)


def limits_of_models(models: Sequence[nn.Module]) -> list[str]:
    """The wrappers among these whose state is only known in part; 0.1 us a module."""
    kinds = {kind for model in models for module in model.modules() for kind in _kinds(module)}
    return [text for kind, text in (("fsdp1", _FLAT), ("deepspeed", _DEEPSPEED)) if kind in kinds]


def limits_of_tensors(slots: SlotTable) -> list[str]:
    """What the optimizers hold that is none of the model's, and tensors whose layout nobody declares."""
    limits = []
    for optimizer in slots.optimizers():
        holding = slots.holding(optimizer)
        if holding.foreign and not len(holding.tensors):
            limits.append(
                f"{type(optimizer).__name__} holds no tensor of the model, but {len(holding.foreign)} of its own (copies or "
                "flat partitions): which tensors it moves is not known"
            )
        if holding.masters:
            limits.append(
                f"{type(optimizer).__name__} holds master weights, which are copied to the model's when its hooks are over: what "
                "they moved is seen at the step after"
            )
    unknown = sum(slots.layout(index).kind == "unknown" for index in range(len(slots)))
    if unknown and slots.world_size > 1:
        limits.append(
            f"the layout of {unknown} of {len(slots)} tensors is not declared (no DTensor, no DDP): ranks' parts are not "
            "put together"
        )
    return limits


def _kinds(module: nn.Module) -> Iterator[str]:
    # By names, for importing either library would cost seconds.
    for base in type(module).__mro__:
        if base.__name__ == "FullyShardedDataParallel" and base.__module__.startswith("torch."):
            yield "fsdp1"
        if base.__name__ == "DeepSpeedEngine":
            yield "deepspeed"
