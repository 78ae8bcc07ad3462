"""
TRL's own trainers on a tiny Llama and a tokenizer of sixty words, with the callback of transformers: `sft` or `grpo`.
"""

import sys

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from trainvitals.integrations.transformers import TrainvitalsCallback

kind = sys.argv[1]
transformers.set_seed(0)
torch.set_num_threads(1)
WORDS = [f"w{number}" for number in range(60)]
VOCABULARY = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
PAD, END, UNKNOWN = "<pad>", "<eos>", "<unk>"
split = Tokenizer(models.WordLevel(VOCABULARY, unk_token=UNKNOWN))
split.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=split, pad_token=PAD, eos_token=END, unk_token=UNKNOWN
)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
)
callback = TrainvitalsCallback()
given = {
    "output_dir": kind,
    "max_steps": 16,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_steps": 8,
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
    "bf16": False,
}


def text(start, length):
    return " ".join(WORDS[(start + 3 * k) % 60] for k in range(length))


def reward(completions, **_):
    return [float(each.count("w1")) + 0.1 * len(each.split()) for each in completions]


if kind == "sft":
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**given, max_length=16),
        train_dataset=Dataset.from_list([{"text": text(start, 12)} for start in range(240)]),
        processing_class=tokenizer,
        callbacks=[callback],
    )
else:
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(
            **given, num_generations=4, max_completion_length=8, gradient_accumulation_steps=2
        ),
        train_dataset=Dataset.from_list([{"prompt": text(start, 4)} for start in range(240)]),
        processing_class=tokenizer,
        callbacks=[callback],
    )
trainer.train()
