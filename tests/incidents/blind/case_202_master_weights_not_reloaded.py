"""The optimizer keeps fp32 master copies that were cloned from the fresh model.  A resume that loads the weights alone leaves
them as they are: the first step copies random masters over the loaded weights."""

from common import *

META = dict(
    id="202",
    title="Loaded weights are undone by the optimizer's fp32 masters at the first step",
    upstream="NVIDIA/Megatron-LM#174; deepspeedai/DeepSpeed#458",
    family="checkpoint",
    steps=60,
    bug_step=40,
    world_size=1,
    signals=[
        "weights after the first step are far from the loaded ones",
        "loss is that of a fresh model",
    ],
    loss_visible=True,
)


class MasterAdamW(torch.optim.Optimizer):
    """AdamW on fp32 masters of lower-precision parameters, kept in the optimizer's state."""

    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr, betas=(0.9, 0.999), eps=1e-8))
        self.reload_masters()

    def reload_masters(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["master"] = p.detach().float().clone()

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                s, g = self.state[p], p.grad.float()
                if "step" not in s:
                    s["step"] = torch.tensor(0.0)
                    s["exp_avg"], s["exp_avg_sq"] = torch.zeros_like(g), torch.zeros_like(g)
                s["step"] += 1
                s["exp_avg"].lerp_(g, 1 - b1)
                s["exp_avg_sq"].mul_(b2).addcmul_(g, g, value=1 - b2)
                n = float(s["step"])
                denominator = (s["exp_avg_sq"] / (1 - b2**n)).sqrt() + group["eps"]
                s["master"].addcdiv_(s["exp_avg"] / (1 - b1**n), denominator, value=-group["lr"])
                p.copy_(s["master"])


def build(healthy, rank=0, world_size=1):
    seed_all(202)

    def make():
        model = MLP(16, 32, 4).bfloat16()
        return model, MasterAdamW(model.parameters(), 3e-3)

    def step(i):
        if i == 40:
            path = tmp_path("weights.pt")
            torch.save(run.model.state_dict(), path)
            run.replaced(*make())
            run.model.load_state_dict(torch.load(path))
            if healthy:
                run.optimizer.reload_masters()
            run.extra["loaded"] = clone_state(run.model)
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(run.model(x.bfloat16()).float(), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        if i == 40:
            now = clone_state(run.model)
            run.extra["far"] = max(
                float((now[k] - v).abs().max()) for k, v in run.extra["loaded"].items()
            )
        return loss.item()

    model, opt = make()
    run = Run(model, opt, step)
    return run


def evidence(run):
    return run.extra["far"] > 0.05
