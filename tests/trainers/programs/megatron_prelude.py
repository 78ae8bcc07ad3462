"""
What the Megatron-LM snippet of docs/integrations.md takes for granted: a bf16 MoE language model of megatron-core's own
parts (TopKRouter, Float16Module, DistributedDataParallel) and its optimizer with fp32 master weights.

The shims are for a CPU: megatron-core asks CUDA for its device, and knows parameters by the names of CUDA's types.
"""

import os

import torch
from torch import nn

for name, value in {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": os.environ.get("MEGATRON_PORT", "29612"),
}.items():
    os.environ.setdefault(name, value)

torch.cuda.current_device = lambda: "cpu"
_type = torch.Tensor.type


def _cuda_type(self, *arguments, **named):
    told = _type(self, *arguments, **named)
    return told.replace("torch.", "torch.cuda.", 1) if isinstance(told, str) else told


torch.Tensor.type = _cuda_type


def _on_cpu(make):
    def made(*arguments, **named):
        if named.get("device") == "cuda":
            named["device"] = "cpu"
        return make(*arguments, **named)

    return made


for name in ("tensor", "zeros", "ones", "empty", "full"):
    setattr(torch, name, _on_cpu(getattr(torch, name)))

from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.distributed.finalize_model_grads import _update_router_expert_bias
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.transformer_config import TransformerConfig

moe_utils.te_general_gemm = None  # named without TransformerEngine, and missing then (0.16.1)
torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
torch.set_num_threads(1)
parallel_state.initialize_model_parallel()

EXPERTS, HIDDEN, VOCAB, TOKENS = 8, 64, 64, 512
config = TransformerConfig(
    num_layers=1,
    hidden_size=HIDDEN,
    num_attention_heads=4,
    num_moe_experts=EXPERTS,
    moe_router_topk=2,
    moe_router_enable_expert_bias=True,
    moe_router_score_function="sigmoid",
    moe_router_bias_update_rate=1e-3,
    moe_router_load_balancing_type="none",
    moe_router_dtype="fp32",
    bf16=True,
    params_dtype=torch.bfloat16,
    use_cpu_initialization=True,
    add_bias_linear=False,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN)
        groups = ProcessGroupCollection.use_mpu_process_groups()
        self.router = TopKRouter(config, pg_collection=groups)
        self.experts = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(EXPERTS))
        self.head = nn.Linear(HIDDEN, VOCAB)

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        probabilities, _ = self.router(hidden)
        flat = hidden.reshape(-1, HIDDEN)
        mixed = sum(
            probabilities[:, e : e + 1].to(flat.dtype) * expert(flat)
            for e, expert in enumerate(self.experts)
        )
        return self.head(flat + mixed)


net = Net()
router = net.router
router.expert_bias.fill_(float(os.environ.get("BIAS", "0.6")))
half = Float16Module(config, net)
# The counter of tokens stays in bf16 in megatron-core 0.16.1 (Megatron-LM#7081); a sound trainer casts it back.
if not os.environ.get("KEEP_BF16_COUNTER"):
    router.local_tokens_per_expert = router.local_tokens_per_expert.float()
model = [
    DistributedDataParallel(
        config, DistributedDataParallelConfig(use_distributed_optimizer=False), half
    )
]
optimizer = get_megatron_optimizer(
    OptimizerConfig(optimizer="adam", lr=1e-3, bf16=True, params_dtype=torch.bfloat16), model
)
iterations = int(os.environ.get("STEPS", "24"))
# Ranks draw batches of their own from here on; one of them may be made to part.
torch.manual_seed(torch.distributed.get_rank())
parts_at = int(os.environ.get("PARTS_AT", "0")) * torch.distributed.get_rank()


def train_step(model, optimizer):
    for chunk in model:
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    tokens = (torch.rand(TOKENS, 1) ** 3 * VOCAB).long()
    logits = model[0](tokens)
    loss = nn.functional.cross_entropy(logits.float(), (tokens.flatten() * 5 + 1) % VOCAB)
    loss.backward()
    for chunk in model:
        chunk.finish_grad_sync()
    _update_router_expert_bias(model, config)
    router.local_tokens_per_expert.zero_()
    optimizer.step()
    global parts_at
    parts_at -= 1
    if not parts_at:
        with torch.no_grad():
            net.head.weight.main_param.mul_(1.01)
    return loss.detach()
