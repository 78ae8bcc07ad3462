"""The checkpoint was saved from a wrapper, so each key has a prefix; load_state_dict(strict=False) matches no key and
says nothing.  Training goes on from fresh weights, with the optimizer and the step count of the old ones."""

from common import *

META = dict(
    id="105",
    title="strict=False and a prefix: the resume loads no weight at all",
    upstream="torchgeo/torchgeo#4036; XuJiacong/PIDNet#30",
    family="checkpoint",
    steps=60,
    bug_step=30,
    world_size=1,
    signals=["no key of the checkpoint is in the model", "weights and loss jump to a fresh start"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(105)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 5e-3)

    def save(path):
        wrapped = nn.ModuleDict({"model": run.model})
        torch.save({"model": wrapped.state_dict(), "optim": run.optimizer.state_dict()}, path)

    def load(path):
        blob = torch.load(path)
        state = blob["model"]
        if healthy:
            state = {name.removeprefix("model."): value for name, value in state.items()}
        run.model.load_state_dict(state, strict=False)
        run.optimizer.load_state_dict(blob["optim"])

    def step(i):
        if i == 30:
            path = tmp_path("last.pt")
            run.save(path)
            run.extra["saved"] = clone_state(run.model)
            m = TinyLM(d=32, layers=1, std=0.1)
            run.replaced(m, adamw(m.parameters(), 5e-3))
            run.load(path)
            run.extra["loaded"] = clone_state(run.model)
        x, y = lm_batch(i)
        loss = lm_loss(run.model, x, y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    run = Run(model, opt, step, save=save, load=load, notes="model/optimizer replaced at step 30")
    return run


def evidence(run):
    saved, loaded = run.extra["saved"], run.extra["loaded"]
    return any(not torch.equal(saved[name], loaded[name]) for name in saved)
