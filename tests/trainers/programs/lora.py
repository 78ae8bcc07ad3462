"""
torchtitan #421 with peft and transformers' Trainer: `garbage`, `zeros`, `step` or `sound`; `unedited` behind that leaves
our one line out.

A small Llama is trained, then fine-tuned with LoRA. `garbage`, `zeros`: `to_empty()` comes after the weights were
loaded, in recycled or in fresh memory (set here, so that it is the same each time). `step`: a step size far too large.
"""

import sys

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

mode, callbacks = sys.argv[1], []
if "unedited" not in sys.argv:
    from trainvitals.integrations.transformers import TrainvitalsCallback

    callbacks = [TrainvitalsCallback()]
transformers.set_seed(0)
config = LlamaConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
)
text = (torch.arange(1024)[:, None] * 5 + 7 * torch.arange(16)) % 256
dataset = [{"input_ids": row, "labels": row} for row in text]


def arguments(folder, steps, rate):
    return TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=rate,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )


base = LlamaForCausalLM(config)
Trainer(model=base, args=arguments("base", 80, 3e-3), train_dataset=dataset).train()
weights = {name: value.clone() for name, value in base.state_dict().items()}

tuned = LlamaForCausalLM(config)
tuned.load_state_dict(weights)
tuned = get_peft_model(tuned, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
if mode in ("garbage", "zeros"):
    buffers = {name: value.clone() for name, value in tuned.named_buffers()}
    tuned.to_empty(device="cpu")
    with torch.no_grad():
        for name, buffer in tuned.named_buffers():
            buffer.copy_(buffers[name])
        for name, parameter in tuned.named_parameters():
            if mode == "garbage":
                parameter.normal_(0, 0.5 if "lora" in name else 0.02)
            elif "lora" in name:
                parameter.zero_()
            else:
                parameter.fill_(1.0) if "norm" in name else parameter.normal_(0, 0.02)
trainer = Trainer(
    model=tuned,
    args=arguments("tuned", 30, 0.5 if mode == "step" else 2e-3),
    train_dataset=dataset,
    callbacks=callbacks,
)
trainer.train()
