"""After a rise of the loss the run is started again from a checkpoint 20 steps older, with half the learning rate and the
data from there on: a roll-back, as people do."""

from common import *

META = dict(
    id="h109",
    title="Roll-back to an earlier checkpoint with half the learning rate",
    upstream="-",
    family="healthy",
    steps=80,
    bug_step=None,
    world_size=1,
    tempts=["weights, moments and step counter go back at the resume", "learning rate jumps"],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1109)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 5e-3)
    path = tmp_path("step-30.pt")

    def step(i):
        if i == 50:
            m = TinyLM(d=32, layers=1, std=0.1)
            o = adamw(m.parameters(), 5e-3)
            weights, moments = torch.load(path)
            m.load_state_dict(weights)
            o.load_state_dict(moments)
            for group in o.param_groups:
                group["lr"] = 2.5e-3
            run.replaced(m, o)
        x, y = lm_batch(i if i < 50 else i - 20)
        loss = lm_loss(run.model, x, y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        if i == 29:
            torch.save([run.model.state_dict(), run.optimizer.state_dict()], path)
        return loss.item()

    run = Run(model, opt, step, notes="model/optimizer replaced at step 50")
    return run
