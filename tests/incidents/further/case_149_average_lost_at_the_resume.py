"""The checkpoint holds the average, and loading works; then the trainer builds its EMA tracker, which copies the weights of
the model into it.  After each resume the average begins anew."""

import copy

from common import *

META = dict(
    id="149",
    title="EMA state overwritten with the model's weights right after it was restored",
    upstream="m2lines/Samudra#313",
    family="ema",
    steps=70,
    bug_step=45,
    world_size=1,
    signals=["the average after the resume is not the saved one", "it equals the model exactly"],
    loss_visible=False,
)


class Tracked(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = TinyLM(d=32, layers=1, std=0.1)
        self.ema = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, x):
        return self.net(x)


def build(healthy, rank=0, world_size=1):
    seed_all(149)
    model = Tracked()
    opt = adamw(model.net.parameters(), 3e-3)

    def step(i):
        if i == 45:
            path = tmp_path("train_ckpt.pt")
            torch.save([run.model.state_dict(), run.optimizer.state_dict()], path)
            m = Tracked()
            run.replaced(m, adamw(m.net.parameters(), 3e-3))
            weights, moments = torch.load(path)
            run.model.load_state_dict(weights)
            run.optimizer.load_state_dict(moments)
            if not healthy:
                run.model.ema.load_state_dict(run.model.net.state_dict())
            name = "ema.tok_embeddings.weight"
            run.extra["same"] = torch.equal(weights[name], run.model.state_dict()[name])
        x, y = lm_batch(i)
        loss = lm_loss(run.model, x, y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        with torch.no_grad():
            for average, p in zip(run.model.ema.parameters(), run.model.net.parameters()):
                average.lerp_(p, 0.01)
        return loss.item()

    run = Run(model, opt, step, notes="model/optimizer replaced at step 45")
    return run


def evidence(run):
    return not run.extra["same"]
