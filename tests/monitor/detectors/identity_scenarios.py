"""
Runs for slot-replaced, dtype-changed, contract-broken, tied-weights-broken and tensor-added-or-lost.
"""

from __future__ import annotations

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals.contract import Contract
from trainvitals_monitor.detectors.contract_broken import ContractBroken
from trainvitals_monitor.detectors.dtype_changed import DtypeChanged
from trainvitals_monitor.detectors.slot_replaced import SlotReplaced
from trainvitals_monitor.detectors.tensor_added_or_lost import TensorAddedOrLost
from trainvitals_monitor.detectors.tied_weights_broken import TiedWeightsBroken
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
BIAS = "layers.0.moe.expert_bias"


def _moe(**bias: object) -> Stream:
    stream = Stream(["layers.0.w", tensor(BIAS, kind="buffer", shape=[4], **bias)])
    stream.optimizers([["layers.0.w"]])
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.silent(SlotReplaced)
def buffer_replaced_once() -> Stream:
    """A persistent buffer becomes another object; a local variable may hold the old one."""
    stream = _moe()
    stream.slot(BIAS, "object", "storage", before="float32[4] on cpu", after="float32[4] on cpu")
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.fires(SlotReplaced, Severity.WARNING, first_step=2, subject=BIAS, says="step 2")
def buffer_replaced_twice_while_the_first_is_held() -> Stream:
    """A state dict that was built before has the first tensor."""
    stream = _moe()
    stream.slot(BIAS, "object", "storage")
    stream.step(values={"*": 1.0}, steps=20)
    stream.slot(BIAS, "object", "storage", outlived=2)
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.fires(SlotReplaced, Severity.CRITICAL, first_step=1, subject=BIAS)
def buffer_replaced_at_every_step() -> Stream:
    """The update of a buffer re-assigns it, and the tensor from before the first step is held."""
    stream = _moe()
    for _ in range(4):
        stream.slot(BIAS, "object", "storage", outlived=0)
        stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.silent(SlotReplaced)
def buffer_replaced_at_every_step_and_held_by_nobody() -> Stream:
    """The state dict is built for each save: what the model holds is what is saved."""
    stream = _moe()
    for _ in range(40):
        stream.slot(BIAS, "object", "storage")
        stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.fires(SlotReplaced, Severity.CRITICAL, first_step=2, subject="a")
def parameter_replaced_under_the_optimizer() -> Stream:
    """A parameter becomes another object, and the optimizer no longer holds it, as is told a step later."""
    stream = Stream(["a", "b"])
    stream.optimizers([["a", "b"]])
    stream.step(values={"*": 1.0})
    stream.slot("a", "object", "storage")
    stream.step(values={"*": 1.0})
    stream.optimizers([["b"]])
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.silent(SlotReplaced, DtypeChanged)
def cache_reassigned_by_design() -> Stream:
    """A non-persistent buffer is made anew, longer and in another dtype."""
    stream = _moe(persistent=False)
    for _ in range(4):
        stream.slot(
            BIAS,
            "object",
            "storage",
            "shape",
            "dtype",
            before="float32[4] on cpu",
            after="bfloat16[8] on cpu",
        )
        stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.silent(SlotReplaced)
def storage_swapped_at_every_step() -> Stream:
    """`p.data = x` keeps the object (SAM, schedule-free optimizers, Megatron's cast back)."""
    stream = _moe()
    for _ in range(5):
        stream.slot("layers.0.w", "storage")
        stream.slot(BIAS, "storage")
        stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.silent(SlotReplaced)
def pruned_again_and_again() -> Stream:
    """`torch.nn.utils.prune` registers a new mask beside the parameter `weight_orig` at each pruning."""
    stream = Stream(["0.weight_orig", tensor("0.weight_mask", kind="buffer")])
    stream.optimizers([["0.weight_orig"]])
    stream.step(values={"*": 1.0})
    for _ in range(4):
        stream.slot("0.weight_mask", "object", "storage", outlived=1)
        stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.fires(SlotReplaced, Severity.CRITICAL, subject="attention_mask")
def mask_that_belongs_to_no_pruning() -> Stream:
    """Nothing is pruned: a persistent mask that is re-assigned is as stale in a cached state dict as any buffer."""
    stream = Stream(["weight", tensor("attention_mask", kind="buffer")])
    stream.optimizers([["weight"]])
    stream.step(values={"*": 1.0})
    for _ in range(4):
        stream.slot("attention_mask", "object", "storage", outlived=1)
        stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.silent(SlotReplaced)
def model_moved_and_back() -> Stream:
    """`model.to(...)`: parameters change their storage, buffers their object."""
    stream = _moe()
    stream.slot("layers.0.w", "storage", "device")
    stream.slot(BIAS, "object", "storage", "device", outlived=1)
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.silent(SlotReplaced)
def parameter_replaced_along_with_its_optimizer() -> Stream:
    """The trainer re-made the parameter and the optimizer: it is held."""
    stream = Stream(["a", "b"])
    stream.optimizers([["a", "b"]])
    stream.step(values={"*": 1.0})
    stream.slot("a", "object", "storage")
    stream.optimizers([["a"], ["b"]])
    stream.step(values={"*": 1.0}, steps=3)
    return stream


def _cast(fqn: str, before: str, after: str, **fields: object) -> Stream:
    stream = Stream(["w", tensor("buffer", kind="buffer"), tensor("frozen", trainable=False)])
    stream.optimizers([["w"]])
    stream.step(values={"*": 1.0})
    stream.slot(fqn, "dtype", before=f"{before}[64] on cpu", after=f"{after}[64] on cpu")
    stream.retensor(fqn, dtype=after)
    stream.step(values={"*": 1.0}, steps=2)
    return stream


@SCENARIOS.fires(DtypeChanged, Severity.CRITICAL, first_step=2, subject="buffer", says="bfloat16")
def buffer_cast_down() -> Stream:
    """`module.bfloat16()` in the middle of a run."""
    return _cast("buffer", "float32", "bfloat16")


@SCENARIOS.fires(DtypeChanged, Severity.WARNING, first_step=2, subject="frozen")
def frozen_parameter_cast_down() -> Stream:
    """A frozen base is halved: coarser, but it is not trained."""
    return _cast("frozen", "float32", "float16")


@SCENARIOS.silent(DtypeChanged)
def parameter_cast_up() -> Stream:
    """More bits lose nothing."""
    return _cast("w", "bfloat16", "float32")


@SCENARIOS.silent(DtypeChanged)
def counter_cast_between_integers() -> Stream:
    """What is no float is not judged."""
    return _cast("buffer", "int32", "int64")


@SCENARIOS.fires(ContractBroken, Severity.CRITICAL, subject=BIAS, says="bfloat16 where float32")
def expert_bias_in_bfloat16() -> Stream:
    """The built-in contract: an expert bias is float32."""
    return _moe(dtype="bfloat16")


@SCENARIOS.fires(ContractBroken, Severity.WARNING, subject="moe.local_tokens_per_expert")
def token_counter_in_bfloat16() -> Stream:
    """Megatron's counter: sums come out wrong, and nothing stops."""
    stream = Stream(["w", tensor("moe.local_tokens_per_expert", kind="buffer", dtype="bfloat16")])
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.fires(ContractBroken, Severity.CRITICAL, subject="router.weight", says="declared")
def declared_dtype_not_kept() -> Stream:
    """What the user declared counts as it stands."""
    stream = Stream(
        [tensor("router.weight", dtype="bfloat16"), "w"],
        contract=Contract(dtypes={"router.*": "float32"}),
    )
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.fires(ContractBroken, Severity.CRITICAL, subject="output.weight", says="embed.weight")
def declared_tie_broken() -> Stream:
    """Embedding and head are two objects, although they were declared one."""
    stream = Stream(
        ["embed.weight", "output.weight"],
        contract=Contract(tied=[("embed.weight", "output.weight")]),
    )
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.silent(ContractBroken)
def declared_tie_kept() -> Stream:
    """Two names of one object; a third that the model does not have."""
    stream = Stream(
        ["embed.weight", tensor("output.weight", tied_to=0)],
        contract=Contract(tied=[("output.weight", "embed.weight"), ("embed.weight", "gone")]),
    )
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.silent(ContractBroken, DtypeChanged, SlotReplaced)
def contract_kept() -> Stream:
    """Low precision where it may be, float32 where it must."""
    stream = Stream(
        [
            tensor("w", dtype="bfloat16"),
            tensor(BIAS, kind="buffer"),
            tensor("moe.tokens_per_expert", kind="buffer", dtype="int64", persistent=False),
            tensor("bn.running_mean", kind="buffer"),
        ],
        contract=Contract(dtypes={"w": "bfloat16"}),
    )
    stream.step(values={"*": 1.0}, steps=3)
    return stream


def _tied(*, tied: bool = True, closed: bool = True) -> Stream:
    """An embedding and an output layer that share one tensor, and a restart."""
    names = [tensor("embed.weight"), tensor("output.weight", tied_to=0)]
    stream = Stream(names)
    stream.optimizers([["embed.weight"]])
    stream.step(values={"*": 1.0}, updates={"*": 0.1}, steps=4)
    if closed:
        stream.restart(["embed.weight", tensor("output.weight", tied_to=0 if tied else -1)])
        stream.optimizers([["embed.weight", "output.weight"]])
    return stream


APART = {"embed.weight": 1.0, "output.weight": 1.1}


@SCENARIOS.fires(
    TiedWeightsBroken, Severity.CRITICAL, first_step=5, subject="output.weight", says="embed.weight"
)
def tie_lost_on_a_restart() -> Stream:
    """Each name has its own tensor, and they drift apart."""
    stream = _tied(tied=False)
    stream.step(values=APART, steps=3)
    return stream


@SCENARIOS.fires(TiedWeightsBroken, Severity.CRITICAL, first_step=5, says="are two now")
def tie_lost_within_an_attempt() -> Stream:
    """One of the slots got another tensor between two steps."""
    stream = _tied(closed=False)
    stream.retensor("output.weight", tied_to=-1)
    stream.slot("output.weight", "object", "storage", untied=["embed.weight"])
    stream.step(values=APART, steps=3)
    return stream


@SCENARIOS.silent(TiedWeightsBroken)
def tie_kept_on_a_restart() -> Stream:
    """Tied again after the load."""
    stream = _tied()
    stream.step(values={"*": 1.1}, steps=3)
    return stream


@SCENARIOS.silent(TiedWeightsBroken)
def never_tied() -> Stream:
    """Two tensors from the start."""
    stream = Stream(["embed.weight", "output.weight"])
    stream.optimizers([["embed.weight", "output.weight"]])
    stream.step(values=APART, steps=3)
    return stream


@SCENARIOS.silent(TiedWeightsBroken)
def output_layer_taken_away() -> Stream:
    """Nobody looks at the other end any more: it is gone."""
    stream = _tied(closed=False)
    stream.retensor("output.weight", tied_to=-1)
    stream.slot("output.weight", "lost", untied=["embed.weight"])
    stream.step(values={"embed.weight": 1.5}, steps=80)
    return stream


@SCENARIOS.silent(TiedWeightsBroken)
def both_ends_frozen() -> Stream:
    """What is not trained does not drift apart."""
    embed = tensor("embed.weight", trainable=False)
    output = tensor("output.weight", trainable=False, tied_to=0)
    stream = Stream([embed, output, "head.weight"])
    stream.optimizers([["head.weight"]])
    stream.step(values={"*": 1.0}, steps=2)
    stream.retensor("output.weight", tied_to=-1)
    stream.slot("output.weight", "object", "storage", untied=["embed.weight"])
    stream.step(values={**APART, "head.weight": 1.0}, steps=3)
    return stream


@SCENARIOS.fires(
    TensorAddedOrLost, Severity.INFO, first_step=2, subject="adapter.a", says="no optimizer"
)
def an_adapter_is_injected() -> Stream:
    """A parameter of which the optimizer knows nothing yet."""
    stream = _moe()
    stream.add_tensor("adapter.a")
    stream.slot("adapter.a", "added", after="float32[64] on cpu")
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.fires(TensorAddedOrLost, Severity.INFO, first_step=2, subject=BIAS, says="no longer")
def a_buffer_is_deleted() -> Stream:
    """Nothing is there any more."""
    stream = _moe()
    stream.slot(BIAS, "lost", before="float32[4] on cpu")
    stream.step(values={"layers.0.w": 1.0})
    return stream


@SCENARIOS.silent(TensorAddedOrLost)
def a_buffer_is_moved() -> Stream:
    """It is there, in another place."""
    stream = _moe()
    stream.slot(BIAS, "object", "storage", before="float32[4] on cpu", after="float32[4] on cpu")
    stream.step(values={"*": 1.0})
    return stream
