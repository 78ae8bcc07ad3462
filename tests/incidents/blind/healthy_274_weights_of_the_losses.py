"""Three tasks whose weights are learnt so that their gradients are of one size (GradNorm): an optimizer of their own, fed by a second
derivative, and brought back to a sum of three after each step."""

from common import *

META = dict(
    id="h274",
    title="Weights of three losses are learnt, and brought back to their sum each step",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "a parameter changed outside its optimizer in every step",
        "gradients that are set by hand",
        "losses four orders of magnitude apart",
    ],
)


class Tasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(32, 1) for _ in range(3))
        self.weights = nn.Parameter(torch.ones(3))


def build(healthy=True, rank=0, world_size=1):
    seed_all(1274)
    model = Tasks()
    rest = [p for n, p in model.named_parameters() if n != "weights"]
    opt, own = adamw(rest, 1e-2), torch.optim.Adam([model.weights], 2e-2)
    shared, first, sizes = model.body[2].weight, [], (1.0, 10.0, 0.1)
    rules = [0.5 * torch.randn(16, 1, generator=gen(1274, k)) for k in range(3)]

    def step(i):
        x, _ = reg_batch(i)
        h = model.body(x)
        goals = [torch.tanh(x @ w) * size for w, size in zip(rules, sizes)]
        losses = torch.stack([F.mse_loss(m(h), g) for m, g in zip(model.heads, goals)])
        if not first:
            first.append(losses.detach())
        norms = torch.stack(
            [
                torch.autograd.grad(model.weights[k] * losses[k], shared, create_graph=True)[
                    0
                ].norm()
                for k in range(3)
            ]
        )
        pace = losses.detach() / first[0]
        goal = norms.detach().mean() * (pace / pace.mean()) ** 0.5
        push = torch.autograd.grad((norms - goal).abs().sum(), model.weights, retain_graph=True)[0]
        opt.zero_grad()
        (model.weights.detach() * losses).sum().backward()
        model.weights.grad = push
        opt.step()
        own.step()
        with torch.no_grad():
            model.weights.clamp_(min=1e-3)
            model.weights.mul_(3 / model.weights.sum())
        return losses.sum().item()

    return Run(model, opt, step, extra={"optimizers": [opt, own]})
