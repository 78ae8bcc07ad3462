"""ActNorm draws scale and shift from the first batch, and remembers that it did so in a Python flag.  The flag is not in
the state dict: after a resume the first batch overwrites the trained scale and shift.  Fix: make it a buffer."""

from common import *

META = dict(
    id="117",
    title="ActNorm's `initialized` flag is not saved: trained parameters are drawn anew after the resume",
    upstream="bayesiains/nflows#4; david-knigge/ccnn#14",
    family="checkpoint",
    steps=60,
    bug_step=30,
    world_size=1,
    signals=["two parameters are not what was loaded, after the first forward pass"],
    loss_visible=False,
)


class ActNorm(nn.Module):
    def __init__(self, d, healthy):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(d))
        self.shift = nn.Parameter(torch.zeros(d))
        if healthy:
            self.register_buffer("initialized", torch.tensor(False))
        else:
            self.initialized = False

    def forward(self, x):
        if self.training and not bool(self.initialized):
            with torch.no_grad():
                self.log_scale.copy_(-torch.log(x.std(0) + 1e-6))
                self.shift.copy_(-(x * self.log_scale.exp()).mean(0))
            if isinstance(self.initialized, torch.Tensor):
                self.initialized.fill_(True)
            else:
                self.initialized = True
        return x * self.log_scale.exp() + self.shift


def make(healthy):
    model = nn.Sequential(nn.Linear(16, 32), ActNorm(32, healthy), nn.ReLU(), nn.Linear(32, 4))
    return model, adamw(model.parameters(), 1e-2)


def build(healthy, rank=0, world_size=1):
    seed_all(117)
    model, opt = make(healthy)

    def step(i):
        x, y = cls_batch(i, noise=1.0)
        if i == 30:
            path = tmp_path("flow.pt")
            torch.save([run.model.state_dict(), run.optimizer.state_dict()], path)
            run.replaced(*make(healthy))
            weights, moments = torch.load(path)
            run.model.load_state_dict(weights)
            run.optimizer.load_state_dict(moments)
            run.extra["saved"] = weights["1.log_scale"].clone()
        loss = F.cross_entropy(run.model(x), y)
        if i == 30:
            run.extra["used"] = run.model[1].log_scale.detach().clone()
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    run = Run(model, opt, step, notes="model/optimizer replaced at step 30")
    return run


def evidence(run):
    return not torch.equal(run.extra["saved"], run.extra["used"])
