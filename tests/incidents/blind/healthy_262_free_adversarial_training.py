"""Free adversarial training: each batch is trained on four times in a row, with a perturbation that is kept in a buffer and goes on
from batch to batch."""

from common import *

META = dict(
    id="h262",
    title="Each batch four times in a row, with a perturbation kept in a buffer",
    upstream="-",
    family="healthy",
    steps=400,
    bug_step=None,
    world_size=1,
    tempts=[
        "the same batch comes four times, in every block of four",
        "a buffer whose elements stand at their bounds",
        "the loss of a batch goes up while it is trained on",
    ],
)


class Robust(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = MLP(16, 32, 4, bn=True)
        self.register_buffer("delta", torch.zeros(32, 16), persistent=False)

    def forward(self, x):
        return self.net(x)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1262)
    model = Robust()
    opt = sgd(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(opt, [250, 340], 0.1)
    loader = torch.utils.data.DataLoader(range(100), batch_size=1, shuffle=True)
    order = []

    def step(i):
        if i % 4 == 0:
            if not order:
                order.extend(int(b) for b in loader)
            run.extra["batch"] = cls_batch(order.pop())
        x, y = run.extra["batch"]
        moved = (x + model.delta).requires_grad_(True)
        loss = F.cross_entropy(model(moved), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        model.delta.add_(0.1 * moved.grad.sign()).clamp_(-0.3, 0.3)
        return loss.item()

    run = Run(model, opt, step, scheduler=schedule)
    return run
