"""The decay rates of a state space layer are made in the dtype of the configuration, bf16, while all else is fp32: steps of a
thousandth are rounded away where the values are between 1 and 3."""

from common import *

META = dict(
    id="233",
    title="A_log of a state space layer is kept in bf16: its updates are rounded away",
    upstream="state-spaces/mamba#923; pytorch/torchtitan#4178",
    family="lost_update",
    steps=80,
    bug_step=0,
    world_size=1,
    signals=["one bf16 parameter among fp32 ones", "most of its elements never change"],
    loss_visible=False,
)


class StateSpace(nn.Module):
    def __init__(self, d, states, dtype):
        super().__init__()
        a = torch.arange(3, states + 3, dtype=torch.float32).repeat(d, 1)
        self.A_log = nn.Parameter(torch.log(a).to(dtype))
        self.inputs = nn.Linear(d, d)
        self.B = nn.Parameter(torch.randn(d, states) / states)
        self.C = nn.Parameter(torch.randn(d, states) / states)
        self.D = nn.Parameter(torch.ones(d))

    def forward(self, x):
        u = self.inputs(x)
        decay = torch.exp(-0.1 * torch.exp(self.A_log.float()))
        h, out = u.new_zeros(u.shape[0], *decay.shape), []
        for t in range(u.shape[1]):
            h = h * decay + u[:, t, :, None] * self.B
            out.append((h * self.C).sum(-1))
        return torch.stack(out, 1) + u * self.D


def build(healthy, rank=0, world_size=1):
    seed_all(233)
    dtype = torch.float32 if healthy else torch.bfloat16
    model = nn.Sequential(
        nn.Embedding(64, 32),
        nn.LayerNorm(32),
        StateSpace(32, 8, dtype),
        nn.GELU(),
        nn.Linear(32, 64),
    )
    opt = adamw(model.parameters(), 1e-3)
    start = model[2].A_log.detach().clone()

    def step(i):
        x, y = lm_batch(i, bs=4)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step, extra={"start": start})


def evidence(run):
    return float((run.model[2].A_log == run.extra["start"]).float().mean()) > 0.5
