"""A mixture of experts balanced without a loss; the speed of the balancing is set to 0 for the last third, as is done at the end of a
pre-training; the learning rate decays, the router's is a tenth."""

from common import *

META = dict(
    id="h254",
    title="Balancing biases that are frozen for the last third",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "a balancing bias that moves no more",
        "loads that part a little afterwards",
        "two learning rates",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1254)
    model = TinyLM(d=32, layers=2, std=0.1, ffn=lambda: MoE(32, 32, experts=4, k=2))
    gates = [m.gate.weight for m in moes(model)]
    others = [p for p in model.parameters() if all(p is not g for g in gates)]
    opt = adamw([{"params": others}, {"params": gates, "lr": 3e-4}], 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.1, 300)

    def step(i):
        x, y = lm_batch(i, bs=16)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        with torch.no_grad():
            for m in moes(model):
                if i < 200:
                    delta = 5e-3 * torch.sign(m.tokens_per_expert.mean() - m.tokens_per_expert)
                    m.expert_bias.add_(delta - delta.mean())
                m.tokens_per_expert.zero_()
        return loss.item()

    return Run(model, opt, step)
