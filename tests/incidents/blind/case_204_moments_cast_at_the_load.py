"""Parameters are bf16, the optimizer keeps fp32 moments on purpose.  Optimizer.load_state_dict casts floating-point state to
the parameter's dtype: after the resume the moments are bf16, and beta2 = 0.999 cannot decay in it."""

from common import *

META = dict(
    id="204",
    title="load_state_dict casts fp32 moments to the bf16 of the parameters",
    upstream="pytorch/pytorch#43706; facebookresearch/fairscale#50; vllm-project/speculators#899",
    family="optimizer_state",
    steps=80,
    bug_step=40,
    world_size=1,
    signals=["dtype of the moments changes at the resume"],
    loss_visible=False,
)


class Fp32StateAdam(torch.optim.Optimizer):
    """Adam with fp32 moments whatever the parameters' dtype."""

    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr, betas=(0.9, 0.999), eps=1e-8))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                s, g = self.state[p], p.grad.float()
                if not s:
                    s["step"] = torch.tensor(0.0)
                    s["exp_avg"], s["exp_avg_sq"] = torch.zeros_like(g), torch.zeros_like(g)
                s["step"] += 1
                dtype = s["exp_avg"].dtype
                s["exp_avg"].mul_(b1).add_(g.to(dtype), alpha=1 - b1)
                s["exp_avg_sq"].mul_(b2).add_((g * g).to(dtype), alpha=1 - b2)
                n = float(s["step"])
                denominator = (s["exp_avg_sq"].float() / (1 - b2**n)).sqrt() + group["eps"]
                p.sub_(group["lr"] * s["exp_avg"].float() / (1 - b1**n) / denominator)


def build(healthy, rank=0, world_size=1):
    seed_all(204)

    def make():
        model = MLP(16, 32, 4).bfloat16()
        return model, Fp32StateAdam(model.parameters(), 1e-2)

    def step(i):
        if i == 40:
            path = tmp_path("c.pt")
            torch.save({"model": run.model.state_dict(), "optim": run.optimizer.state_dict()}, path)
            run.replaced(*make())
            blob = torch.load(path)
            run.model.load_state_dict(blob["model"])
            run.optimizer.load_state_dict(blob["optim"])
            if healthy:
                for p, saved in zip(run.model.parameters(), blob["optim"]["state"].values()):
                    run.optimizer.state[p] = {k: v.clone() for k, v in saved.items()}
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(run.model(x.bfloat16()).float(), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    model, opt = make()
    run = Run(model, opt, step)
    return run


def evidence(run):
    return next(iter(run.optimizer.state.values()))["exp_avg_sq"].dtype == torch.bfloat16
