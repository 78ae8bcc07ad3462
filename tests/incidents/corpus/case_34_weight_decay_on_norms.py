"""no_decay = ["bias", "LayerNorm.weight"] matches none of the model's norm names (attention_norm, ffn_norm, norm), so
weight decay pulls every norm gain towards zero.  Time is compressed: lr*wd*steps = 1.35, as in a long run."""

from common import *

META = dict(
    id="34",
    title="Name-based no_decay list misses RMSNorm layers; gains decay towards zero",
    upstream="huggingface/transformers#42754, #35927, #16908; karpathy/minGPT#23",
    family="vanishing",
    steps=150,
    bug_step=0,
    world_size=1,
    signals=["norm gains shrink steadily", "norm weights in a decayed param group"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(34)
    model = TinyLM(d=32, layers=1, norm="rms", std=0.3)
    no_decay = ["bias", "LayerNorm.weight"] if not healthy else ["bias", "norm"]
    dec = [p for n, p in model.named_parameters() if not any(k in n for k in no_decay)]
    rest = [p for n, p in model.named_parameters() if any(k in n for k in no_decay)]
    opt = adamw([{"params": dec, "weight_decay": 3.0}, {"params": rest, "weight_decay": 0.0}], 3e-3)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return float(run.model.layers[0].attention_norm.weight.mean()) < 0.6
