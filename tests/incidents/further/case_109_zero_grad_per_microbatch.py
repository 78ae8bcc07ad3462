"""zero_grad sits at the top of forward_backward, which is called once a microbatch: of each accumulation window only the
last microbatch's gradient reaches the optimizer."""

from common import *

META = dict(
    id="109",
    title="zero_grad inside the accumulation loop: all but the last microbatch are thrown away",
    upstream="pytorch/torchtitan#3575; bytetriper/RAE#67; NVIDIA/Megatron-LM#7186; huggingface/accelerate#1299",
    family="gradient_dropped",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=["gradients of several backward passes are cleared before the step they were made for"],
    loss_visible=False,
)
ACCUM = 4


def build(healthy, rank=0, world_size=1):
    seed_all(109)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 3e-3)

    def forward_backward(x, y):
        if not healthy:
            opt.zero_grad()
        loss = lm_loss(model, x, y) / ACCUM
        loss.backward()
        return loss.item()

    def step(i):
        total, parts = 0.0, []
        for j in range(ACCUM):
            total += forward_backward(*lm_batch(i * ACCUM + j, bs=4))
            parts.append(grad_norm(model.parameters()))
        run.extra["parts"] = parts
        opt.step()
        opt.zero_grad()
        return total

    run = Run(model, opt, step)
    return run


def evidence(run):
    parts = run.extra["parts"]  # a sum of four similar gradients grows, a single one does not
    return parts[-1] < 2 * parts[0]
