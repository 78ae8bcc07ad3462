"""
Canonical names, patterns, roles and the contract's dtypes.
"""

from __future__ import annotations

import pytest

from trainvitals.contract import Contract, matches, required_dtype
from trainvitals.errors import BadSetting
from trainvitals.fqn import canonical_fqn, canonical_fqns, fqn_pattern
from trainvitals.roles import Role, role_of


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        ("layers.0.wq.weight", "layers.0.wq.weight"),
        ("module.layers.0.wq.weight", "layers.0.wq.weight"),
        ("module.module.layers.0.wq.weight", "layers.0.wq.weight"),
        ("_orig_mod.layers.0.wq.weight", "layers.0.wq.weight"),
        ("module._orig_mod.wq.weight", "wq.weight"),
        ("_orig_mod.module.wq.weight", "wq.weight"),
        ("layers.0._orig_mod.wq.weight", "layers.0.wq.weight"),
        ("layers.0._checkpoint_wrapped_module._orig_mod.wq.weight", "layers.0.wq.weight"),
        ("_fsdp_wrapped_module.layers.0._fsdp_wrapped_module.wq.weight", "layers.0.wq.weight"),
        ("base_model.model.model.layers.0.q.base_layer.weight", "model.layers.0.q.weight"),
        ("base_model.model.model.layers.0.q.lora_A.default.weight", "model.layers.0.q.lora_A.default.weight"),
        ("encoder.module.weight", "encoder.module.weight"),
        ("not_base_layer.weight", "not_base_layer.weight"),
    ],
)  # fmt: skip
def test_wrappers_leave_no_trace_in_a_name(raw: str, canonical: str) -> None:
    """Whatever wraps a model, its tensors keep their canonical names; canonical names stay as they are."""
    assert canonical_fqn(raw) == canonical
    assert canonical_fqn(canonical) == canonical


def test_two_tensors_never_share_a_name() -> None:
    """Where stripping would make two names one, both keep their raw names."""
    raw = ["q.base_layer.weight", "q.weight", "module.k.weight"]
    assert canonical_fqns(raw) == ["q.base_layer.weight", "q.weight", "k.weight"]


def test_a_pattern_stars_numbers_only() -> None:
    """Layer and expert numbers are starred; digits inside a word are not."""
    assert fqn_pattern("layers.11.experts.3.w1.weight") == "layers.*.experts.*.w1.weight"
    assert fqn_pattern("0.weight") == "*.weight"


@pytest.mark.parametrize(
    ("fqn", "role"),
    [
        ("layers.1.moe.expert_bias", Role.EXPERT_BIAS),
        ("layers.1.moe.expert_bias_E", Role.EXPERT_BIAS),
        ("model.layers.3.mlp.gate.e_score_correction_bias", Role.EXPERT_BIAS),
        ("expert_bias", Role.EXPERT_BIAS),
        ("router.local_tokens_per_expert", Role.EXPERT_COUNTER),
        ("layers.0.attention.rotary.inv_freq", Role.INV_FREQ),
        ("bn1.running_mean", Role.RUNNING_STATISTIC),
        ("q_proj.lora_A.default.weight", Role.LORA_A),
        ("wq.lora_b.weight", Role.LORA_B),
        ("wq.lora_A", Role.LORA_A),
        ("layers.0.ffn_norm.weight", Role.NORM),
        ("layers.0.ln_1.weight", Role.NORM),
        ("tok_embeddings.weight", Role.EMBEDDING),
        ("vq.layers.0._codebook.embed_avg", Role.CODEBOOK),
        ("quantize.embedding.weight", Role.CODEBOOK),
        ("layers.0.attention.wq.weight", Role.OTHER),
    ],
)
def test_roles_are_read_from_names(fqn: str, role: Role) -> None:
    """The names that real libraries give are recognised."""
    assert role_of(fqn) is role


@pytest.mark.parametrize(
    ("fqn", "dtype", "wanted"),
    [
        ("moe.expert_bias", "bfloat16", "float32"),
        ("moe.expert_bias", "float32", None),
        ("moe.expert_bias", "float64", None),
        ("moe.tokens_per_expert", "int64", None),
        ("moe.tokens_per_expert", "bfloat16", "float32"),
        ("rotary.inv_freq", "float16", "float32"),
        ("wq.weight", "bfloat16", None),
    ],
)
def test_the_built_in_contract(fqn: str, dtype: str, wanted: str | None) -> None:
    """Tensors that are updated in tiny steps must be wide; weights may be narrow."""
    assert required_dtype(fqn, dtype, Contract()) == wanted


def test_the_users_dtypes_come_first() -> None:
    """A declared dtype beats the built-in contract, both ways."""
    contract = Contract(dtypes={"*.expert_bias": "bfloat16", "*.weight": "float32"})
    assert required_dtype("moe.expert_bias", "bfloat16", contract) is None
    assert required_dtype("wq.weight", "bfloat16", contract) == "float32"
    assert matches("layers.3.wq.weight", ["layers.*.wq.*"])


def test_a_dtype_that_is_none_is_refused() -> None:
    """A mistyped dtype in a contract fails at once."""
    with pytest.raises(BadSetting, match="float31"):
        Contract(dtypes={"*": "float31"})
