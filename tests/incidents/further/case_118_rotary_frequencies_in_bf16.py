"""Mixed precision casts all buffers to bf16 (model.bfloat16(), or FSDP's buffer_dtype), the rotary inv_freq too: positions
are multiplied with rounded frequencies, and the phase is off by whole radians at long context.  Fix: keep it in fp32."""

from common import *

META = dict(
    id="118",
    title="Rotary inv_freq cast to bf16 with all other buffers",
    upstream="EleutherAI/gpt-neox#1003; huggingface/transformers#25681, #29496; Modalities/modalities#462",
    family="dtype",
    steps=50,
    bug_step=0,
    world_size=1,
    signals=["a non-persistent buffer of frequencies is bf16", "values off by 2**-9"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(118)
    model = TinyLM(layers=1, rope=True, std=0.3)
    if not healthy:
        for module in model.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, buffer.bfloat16())
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, y = lm_batch(i, T=32)
        with torch.autocast("cpu", torch.bfloat16):
            loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    rotary = run.model.layers[0].attention.rotary
    phases = 2048 * (rotary.inv_freq.double() - rotary.compute().double())
    return float(phases.abs().max()) > 0.1
