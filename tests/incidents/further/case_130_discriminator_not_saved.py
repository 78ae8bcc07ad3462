"""The save hook writes the generator and drops everything else: after a resume the discriminator's heads are drawn anew,
while the run goes on as if nothing had happened."""

from common import *

META = dict(
    id="130",
    title="Checkpoint lacks the discriminator's heads; they are random after the resume",
    upstream="G-U-N/Phased-Consistency-Model#26; same class huggingface/sentence-transformers#3980",
    family="checkpoint",
    steps=60,
    bug_step=40,
    earliest=0,
    world_size=1,
    signals=[
        "keys of trained parameters missing in the save",
        "one sub-module jumps at the resume",
    ],
    loss_visible=False,
)


class Adversarial(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
        self.heads = nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))


def make():
    model = Adversarial()
    return model, [adamw(m.parameters(), 1e-3) for m in (model.generator, model.heads)]


def build(healthy, rank=0, world_size=1):
    seed_all(130)
    model, opts = make()

    def save(path):
        whole = run.model.state_dict()
        kept = {n: v for n, v in whole.items() if healthy or n.startswith("generator")}
        torch.save(
            {"model": kept, "optims": [o.state_dict() for o in run.extra["optimizers"]]}, path
        )

    def load(path):
        blob = torch.load(path)
        run.model.load_state_dict(blob["model"], strict=healthy)
        for opt, state in zip(run.extra["optimizers"], blob["optims"]):
            opt.load_state_dict(state)

    def step(i):
        if i == 40:
            path = tmp_path("checkpoint-40.pt")
            run.save(path)
            run.extra["trained"] = run.model.heads[0].weight.detach().clone()
            m, run.extra["optimizers"] = make()
            run.replaced(m, run.extra["optimizers"][0])
            run.load(path)
            run.extra["resumed"] = run.model.heads[0].weight.detach().clone()
        g, heads = run.model.generator, run.model.heads
        opt_g, opt_d = run.extra["optimizers"]
        real = cls_batch(i)[0]
        fake = g(torch.randn(32, 8, generator=gen(130, i)))
        loss_d = F.softplus(-heads(real)).mean() + F.softplus(heads(fake.detach())).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
        loss_g = F.softplus(-heads(fake)).mean()
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()
        return loss_g.item()

    run = Run(model, opts[0], step, save=save, load=load, extra={"optimizers": opts})
    return run


def evidence(run):
    return not torch.equal(run.extra["trained"], run.extra["resumed"])
