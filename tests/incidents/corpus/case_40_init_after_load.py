"""init_model_parameters() is called after load_state_dict() on resume and overwrites the restored weights."""

from common import *

META = dict(
    id="40",
    title="Weights re-initialised right after being restored on resume",
    upstream="huggingface/picotron#32; same effect huggingface/transformers#46620, fla-org/flash-linear-attention#820",
    family="checkpoint",
    steps=70,
    bug_step=40,
    world_size=1,
    signals=["weights after resume != checkpoint", "loss jumps back to ln V"],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(40)
    model = TinyLM(d=32, layers=1)
    opt = adamw(model.parameters(), 5e-3)

    def save(path):
        torch.save({"model": run.model.state_dict(), "optim": run.optimizer.state_dict()}, path)

    def load(path):
        b = torch.load(path)
        run.model.load_state_dict(b["model"])
        run.optimizer.load_state_dict(b["optim"])
        if not healthy:
            run.model.init_weights()

    def step(i):
        if i == 40:
            p = tmp_path("c.pt")
            run.save(p)
            m = TinyLM(d=32, layers=1)
            run.replaced(m, adamw(m.parameters(), 5e-3))
            run.load(p)
            sd = torch.load(p)["model"]
            run.extra["restored"] = all(torch.equal(v, sd[k]) for k, v in m.state_dict().items())
        x, y = lm_batch(i)
        loss = lm_loss(run.model, x, y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    run = Run(model, opt, step, save=save, load=load, notes="model/optimizer replaced at step 40")
    return run


def evidence(run):
    return not run.extra["restored"]
