"""A normaliser keeps its running mean and variance as plain tensors: they are not in the state dict, so a checkpoint
lacks them and after the resume the inputs are normalised with 0 and 1 again."""

from common import *

META = dict(
    id="116",
    title="Running statistics are plain attributes: not saved, lost at the resume",
    upstream="vlomonaco/ar1-pytorch#1; Unity-Technologies/ml-agents#4292; d2l-ai/d2l-zh#1265",
    family="buffer_unsaved",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=[
        "a tensor attribute changes every step and is no buffer",
        "it is fresh after the resume",
    ],
    loss_visible=True,
)


class Normalizer(nn.Module):
    def __init__(self, d, healthy):
        super().__init__()
        if healthy:
            self.register_buffer("running_mean", torch.zeros(d))
            self.register_buffer("running_variance", torch.ones(d))
        else:
            self.running_mean = torch.zeros(d)
            self.running_variance = torch.ones(d)

    def forward(self, x):
        if self.training and "running_mean" in self._buffers:
            self.running_mean.lerp_(x.mean(0), 0.1)
            self.running_variance.lerp_(x.var(0), 0.1)
        elif self.training:
            self.running_mean = self.running_mean + 0.1 * (x.mean(0) - self.running_mean)
            self.running_variance = self.running_variance + 0.1 * (x.var(0) - self.running_variance)
        return (x - self.running_mean) / (self.running_variance + 1e-5).sqrt()


def make(healthy):
    model = nn.Sequential(Normalizer(16, healthy), MLP(16, 32, 4))
    return model, adamw(model.parameters(), 3e-3)


def build(healthy, rank=0, world_size=1):
    seed_all(116)
    model, opt = make(healthy)

    def save(path):
        torch.save({"model": run.model.state_dict(), "optim": run.optimizer.state_dict()}, path)

    def load(path):
        blob = torch.load(path)
        run.model.load_state_dict(blob["model"])
        run.optimizer.load_state_dict(blob["optim"])

    def step(i):
        if i == 40:
            path = tmp_path("policy.pt")
            run.save(path)
            run.replaced(*make(healthy))
            run.load(path)
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(run.model(20.0 + 5.0 * x), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    run = Run(model, opt, step, save=save, load=load, notes="model/optimizer replaced at step 40")
    return run


def evidence(run):
    return "0.running_mean" not in run.model.state_dict()
