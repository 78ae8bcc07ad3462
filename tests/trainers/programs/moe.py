"""
Mixtures of experts of transformers' own, trained by its Trainer one after the other: their routers keep no counter.

    python moe.py FAMILY-MODE[-HOW] ...

FAMILY: mixtral, qwen2, qwen3, gpt_oss, deepseek. MODE: sound, or collapse: all tokens share a direction that two experts
of the first layer like, and nothing balances. HOW: checkpointed, reentrant, compiled.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import Trainer, TrainingArguments

from trainvitals.integrations.transformers import TrainvitalsCallback

EXPERTS, TOKENS = 8, 128
SHAPE = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
}
CONFIGS = {
    "mixtral": (transformers.MixtralConfig, {"num_local_experts": EXPERTS}),
    "qwen2": (
        transformers.Qwen2MoeConfig,
        {"num_experts": EXPERTS, "moe_intermediate_size": 32},
    ),
    "qwen3": (
        transformers.Qwen3MoeConfig,
        {"num_experts": EXPERTS, "moe_intermediate_size": 32, "head_dim": 16},
    ),
    "gpt_oss": (transformers.GptOssConfig, {"num_local_experts": EXPERTS, "head_dim": 16}),
    "deepseek": (
        transformers.DeepseekV3Config,
        {
            "n_routed_experts": EXPERTS,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 0,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
        },
    ),
}
STARTS = torch.arange(512) % 128
ROWS = (STARTS[:, None] * 5 + 7 * torch.arange(16)) % 128


def made(family, mode):
    """The model, from its configuration."""
    transformers.set_seed(0)
    make, own = CONFIGS[family]
    balanced = {"output_router_logits": True, "router_aux_loss_coef": 0.1}
    model = transformers.AutoModelForCausalLM.from_config(
        make(**SHAPE, **own, **(balanced if mode == "sound" else {}))
    )
    if mode == "collapse":
        block = model.model.layers[0].mlp
        with torch.no_grad():
            model.model.embed_tokens.weight.add_(1.0)
            (block.router if family == "gpt_oss" else block.gate).weight[:2] += 1.0
    return model


def train(job):
    """One training; what the agent says of itself, and which hooks are left."""
    family, mode, how = [*job.split("-"), ""][:3]
    model, callback = made(family, mode), TrainvitalsCallback(run=job)
    reentrant = {"gradient_checkpointing_kwargs": {"use_reentrant": how == "reentrant"}}
    arguments = TrainingArguments(
        output_dir=job,
        max_steps=60,
        per_device_train_batch_size=TOKENS // ROWS.shape[1],
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        gradient_checkpointing=how in ("checkpointed", "reentrant"),
        **(reentrant if how in ("checkpointed", "reentrant") else {}),
        torch_compile=how == "compiled",
        torch_compile_backend="aot_eager" if how == "compiled" else None,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    data = [{"input_ids": row, "labels": row} for row in ROWS]
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback]).train()
    report = callback.agent.coverage()
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    return {
        "limits": report["limits"],
        "off": report["switched_off"],
        "left": [repr(hook) for hook in hooks if "trainvitals" in repr(hook)],
    }


if __name__ == "__main__":
    told = {job: train(job) for job in sys.argv[1:]}
    Path("told.json").write_text(json.dumps(told))
