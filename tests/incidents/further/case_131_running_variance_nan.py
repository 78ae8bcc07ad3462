"""A batch of a single row (the last one of an epoch) makes the unbiased variance 0/0: running_var is NaN from then on.
Training goes on with batch statistics and a finite loss; every evaluation is NaN."""

from common import *

META = dict(
    id="131",
    title="A one-row batch makes running_var NaN; training does not notice",
    upstream="facebookresearch/SparseConvNet#190; pytorch/pytorch#1206; karpathy/makemore#22",
    family="nonfinite",
    steps=60,
    bug_step=19,
    world_size=1,
    signals=["NaN in a buffer; parameters, gradients and loss are finite"],
    loss_visible=False,
)


class BatchNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))
        self.register_buffer("running_mean", torch.zeros(d))
        self.register_buffer("running_var", torch.ones(d))

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            n = x.shape[0]
            mean, var = x.mean(0), x.var(0, unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
                self.running_var.lerp_(var * n / torch.tensor(n - 1.0), 0.1)
        return (x - mean) / (var + 1e-5).sqrt() * self.weight + self.bias


def build(healthy, rank=0, world_size=1):
    seed_all(131)
    model = nn.Sequential(nn.Linear(16, 32), BatchNorm(32), nn.ReLU(), nn.Linear(32, 4))
    opt = adamw(model.parameters(), 3e-3)

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        if i % 20 == 19 and not healthy:  # drop_last=False
            x, y = x[:1], y[:1]
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return bool(run.model[1].running_var.isnan().all())
