"""ULMFiT's fine-tuning: first the head, then one block more every 20 steps, each as a new group with a lower learning
rate; the schedule starts anew with each phase."""

from common import *

META = dict(
    id="h105",
    title="Progressive unfreezing, a new parameter group each phase",
    upstream="-",
    family="healthy",
    steps=80,
    bug_step=None,
    world_size=1,
    tempts=["frozen parameters that begin to move", "groups appear", "learning rate jumps up"],
)


def build(healthy=True, rank=0, world_size=1):
    model = pretrained_lm(steps=30)
    seed_all(1105)
    phases = [model.output, model.norm, model.layers[1], model.layers[0]]
    model.requires_grad_(False)
    model.output.requires_grad_(True)
    opt = adamw(model.output.parameters(), 5e-3)

    def step(i):
        phase, within = divmod(i, 20)
        if within == 0 and phase:
            phases[phase].requires_grad_(True)
            opt.add_param_group({"params": list(phases[phase].parameters())})
        for k, group in enumerate(opt.param_groups):
            group["lr"] = 5e-3 * 0.5**k * (1 - within / 20)
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
