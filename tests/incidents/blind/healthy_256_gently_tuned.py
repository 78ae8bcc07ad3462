"""A pre-trained model tuned very gently: learning rate 1e-6 with layer-wise decay down to 1e-8, weight decay, mixout (weights are now and
then set back to the pre-trained ones, element by element), R-Drop with two passes."""

from common import *

META = dict(
    id="h256",
    title="Tuned at 1e-6 with layer-wise decay, elements set back to the pre-trained ones",
    upstream="-",
    family="healthy",
    steps=250,
    bug_step=None,
    world_size=1,
    tempts=[
        "updates near the last bit",
        "learning rates of 1e-8",
        "weights changed outside the optimizer's step",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    model = pretrained_lm(steps=80, d=32, layers=3, dropout=0.1, std=0.1)
    seed_all(1256)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    depth = {"tok": 4, "pos": 4, "layers.0": 3, "layers.1": 2, "layers.2": 1}
    groups = []
    for n, p in model.named_parameters():
        d = next((v for k, v in depth.items() if n.startswith(k)), 0)
        groups.append(
            {"params": [p], "lr": 1e-6 * 0.3**d, "weight_decay": 0.01 if p.ndim > 1 else 0.0}
        )
    opt = adamw(groups, 1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        opt, lambda s: min(1.0, (s + 1) / 25) * (1 - s / 260)
    )

    def step(i):
        x, y = lm_batch(i, seed=100)
        a, b = model(x).float(), model(x).float()
        loss = (
            F.cross_entropy(a.flatten(0, 1), y.flatten())
            + F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="batchmean") * 0.01
        )
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        if i % 20 == 19:
            with torch.no_grad():
                for n, p in model.named_parameters():
                    back = torch.rand(p.shape, generator=gen(1256, i)) < 0.1
                    p.copy_(torch.where(back, start[n], p))
        return loss.item()

    return Run(model, opt, step)
