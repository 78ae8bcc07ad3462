"""Continual learning: four tasks, each with a head of its own that is added when it begins; weights are held to where they were by a
penalty whose strengths and anchors are buffers, set at the end of each task.  Old heads are never used again."""

from common import *

META = dict(
    id="h268",
    title="Tasks one after another: heads added, old ones left, anchors in buffers",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "parameters without a gradient for hundreds of steps",
        "groups that are added",
        "buffers that change every 100 steps only",
        "the loss jumps with each task",
    ],
)


class Lifelong(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(32, 4)])
        for n, p in self.body.named_parameters():
            key = n.replace(".", "_")
            self.register_buffer(f"anchor_{key}", p.detach().clone())
            self.register_buffer(f"strength_{key}", torch.zeros_like(p))

    def kept(self):
        for n, p in self.body.named_parameters():
            key = n.replace(".", "_")
            yield p, getattr(self, f"anchor_{key}"), getattr(self, f"strength_{key}")


def build(healthy=True, rank=0, world_size=1):
    seed_all(1268)
    model = Lifelong()
    opt = sgd(model.parameters(), 0.05, momentum=0.9)

    def loss_of(i, task):
        x, y = cls_batch(i, seed=task, noise=0.5)
        return F.cross_entropy(model.heads[task](model.body(x)), y)

    def step(i):
        task = i // 100
        if i and i % 100 == 0:
            for k in range(20):
                grads = torch.autograd.grad(
                    loss_of(50_000 + k, task - 1), list(model.body.parameters())
                )
                for (_, _, s), g in zip(model.kept(), grads):
                    s.add_(g.pow(2))
            for p, a, _ in model.kept():
                a.copy_(p.detach())
            model.heads.append(nn.Linear(32, 4))
            opt.add_param_group({"params": list(model.heads[-1].parameters())})
        loss = loss_of(i, task)
        held = sum((s * (p - a).pow(2)).sum() for p, a, s in model.kept())
        opt.zero_grad()
        (loss + 0.5 * held).backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
