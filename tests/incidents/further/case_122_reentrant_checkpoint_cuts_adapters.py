"""Gradient checkpointing (reentrant) over frozen blocks with LoRA inside: no input of the block requires a gradient, so
the adapters in it get none; the adapter outside of it does.  Fix: enable_input_require_grads / use_reentrant=False."""

import warnings

from common import *
from torch.utils.checkpoint import checkpoint

META = dict(
    id="122",
    title="Reentrant checkpointing over a frozen embedding: LoRA layers never get a gradient",
    upstream="cloneofsimo/lora#26; locuslab/open-unlearning#178; kohya-ss/sd-scripts#91; huggingface/transformers#26221",
    family="lora",
    steps=50,
    bug_step=0,
    world_size=1,
    signals=["grad is None for most trainable parameters", "lora_B stays 0 in the blocks"],
    loss_visible=True,
)


class CheckpointedLM(TinyLM):
    reentrant = True

    def hidden(self, x):
        h = self.tok_embeddings(x) + self.pos_embeddings(torch.arange(x.shape[1]))
        for layer in self.layers:
            h = checkpoint(layer, h, use_reentrant=self.reentrant)
        return self.norm(h)


def build(healthy, rank=0, world_size=1):
    base = pretrained_lm(steps=40)
    seed_all(122)
    model = CheckpointedLM()
    model.load_state_dict(base.state_dict())
    model.reentrant = not healthy
    adapters = inject_lora(model, r=4)
    model.output = LoRALinear(model.output, 4)
    opt = adamw([p for p in model.parameters() if p.requires_grad], 5e-3)

    def step(i):
        x, y = shifted_batch(i)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one line in upstream's log
            loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"adapters": adapters})


def evidence(run):
    return all(bool((a.delta() == 0).all()) for a in run.extra["adapters"])
