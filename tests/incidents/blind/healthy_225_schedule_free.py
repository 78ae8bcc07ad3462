"""Schedule-free AdamW: the model holds a point between two sequences while it trains, the average while it is evaluated and saved.
Weights change outside the step, there and back, every 25 steps."""

from common import *

META = dict(
    id="h225",
    title="Schedule-free optimizer, weights swapped for each evaluation and save",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=["weights change outside the optimizer's step", "what is saved is not what is trained"],
)


class ScheduleFree(torch.optim.Optimizer):
    def __init__(self, params, lr, warm_up, beta=0.9):
        super().__init__(params, dict(lr=lr, warm_up=warm_up, beta=beta, k=0, weight_sum=0.0))

    @torch.no_grad()
    def swap(self, training):
        for group in self.param_groups:
            b = group["beta"] if training else 1 / group["beta"]
            for p in group["params"]:
                if "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], 1 - b)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            lr = group["lr"] * min(1.0, group["k"] / group["warm_up"])
            group["weight_sum"] += lr**2
            c = lr**2 / group["weight_sum"]
            for p in group["params"]:
                s = self.state[p]
                if "z" not in s:
                    s["z"], s["exp_avg_sq"] = p.clone(), torch.zeros_like(p)
                s["exp_avg_sq"].mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                g = p.grad / ((s["exp_avg_sq"] / (1 - 0.999 ** group["k"])).sqrt() + 1e-8)
                p.lerp_(s["z"], c)
                p.add_(g, alpha=lr * (group["beta"] * (1 - c) - 1))
                s["z"].sub_(g, alpha=lr)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1225)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = ScheduleFree(model.parameters(), 3e-3, 20)

    def step(i):
        if i and i % 25 == 0:
            opt.swap(training=False)
            model.eval()
            with torch.no_grad():
                lm_loss(model, *lm_batch(9000 + i))
            torch.save(model.state_dict(), tmp_path("average.pt"))
            model.train()
            opt.swap(training=True)
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
