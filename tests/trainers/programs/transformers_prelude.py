"""What the transformers snippet of docs/integrations.md takes for granted: a model, data, arguments."""

import os

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

transformers.set_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
)
starts = torch.arange(256) % 128
rows = (starts[:, None] + 7 * torch.arange(16)) % 128
dataset = [{"input_ids": row, "labels": row} for row in rows]
arguments = TrainingArguments(
    output_dir="llama-tiny",
    max_steps=int(os.environ.get("STEPS", "24")),
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    learning_rate=3e-3,
    logging_steps=1,
    save_steps=8,
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
)
