"""RAdam keeps the step size it computed for a step number, learning rate included, in a buffer that all groups share.  The second
group's parameters have the same step number: the backbone takes the head's learning rate, a hundred times its own."""

from common import *

META = dict(
    id="240",
    title="All groups are stepped with the learning rate of the first",
    upstream="LiyuanLucasLiu/RAdam#24; jettify/pytorch-optimizer#96; lessw2020/Ranger-Deep-Learning-Optimizer#9",
    family="schedule",
    steps=150,
    bug_step=1,
    earliest=0,
    world_size=1,
    signals=["updates of a group are a hundred times what its learning rate allows"],
    loss_visible=False,
)


class RAdam(torch.optim.Optimizer):
    def __init__(self, params, lr, shared):
        self.shared = shared
        self.buffer = [[None, None, None] for _ in range(10)]
        super().__init__(params, dict(lr=lr, betas=(0.9, 0.99), eps=1e-8))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            own = [[None, None, None] for _ in range(10)]
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                if not s:
                    s["step"] = 0
                    s["exp_avg"], s["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                s["exp_avg"].lerp_(p.grad, 1 - b1)
                s["exp_avg_sq"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                s["step"] += 1
                kept = (self.buffer if self.shared else own)[s["step"] % 10]
                if kept[0] != s["step"]:
                    t, longest = s["step"], 2 / (1 - b2) - 1
                    n = longest - 2 * t * b2**t / (1 - b2**t)
                    size = group["lr"] / (1 - b1**t)
                    if n >= 5:
                        r = (n - 4) * (n - 2) * longest / ((longest - 4) * (longest - 2) * n)
                        size *= math.sqrt((1 - b2**t) * r)
                    kept[:] = [t, n, size]
                if kept[1] >= 5:
                    p.addcdiv_(s["exp_avg"], s["exp_avg_sq"].sqrt() + group["eps"], value=-kept[2])
                else:
                    p.add_(s["exp_avg"], alpha=-kept[2])


def build(healthy, rank=0, world_size=1):
    seed_all(240)
    model = MLP(16, 32, 4, depth=2)
    groups = [
        {"params": list(model.head.parameters()), "lr": 1e-2},
        {"params": list(model.body.parameters()), "lr": 1e-4},
    ]
    opt = RAdam(groups, 1e-2, shared=not healthy)

    def step(i):
        x, y = cls_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"first": model.body[0].weight.detach().clone()})


def evidence(run):
    return float((run.model.body[0].weight.detach() - run.extra["first"]).abs().max()) > 0.03
