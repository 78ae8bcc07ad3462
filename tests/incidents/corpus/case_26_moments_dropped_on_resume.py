"""Checkpoint manager filled a state_dict *template* of a freshly constructed AdamW: its lazily created moments are not
in the template, so nothing is loaded into them and load_state_dict installs an empty state.  Step counter and moments
restart at every resume; weights, scheduler, RNG are fine."""

from common import *

META = dict(
    id="26",
    title="Adam moments and step silently dropped on resume",
    upstream="KempnerInstitute/KempnerForge#114 (fix #115); OpenNMT/OpenNMT-py#38",
    family="optimizer_state",
    steps=60,
    bug_step=40,
    world_size=1,
    signals=["optimizer step counter goes backwards", "exp_avg_sq norm collapses at resume"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(26)
    model = MLP(16, 32, 4)
    opt = adamw(model.parameters(), 3e-3)

    def save(path):
        torch.save({"model": run.model.state_dict(), "optim": run.optimizer.state_dict()}, path)

    def load(path):
        blob = torch.load(path)
        run.model.load_state_dict(blob["model"])
        if healthy:
            run.optimizer.load_state_dict(blob["optim"])
        else:
            tmpl = run.optimizer.state_dict()  # {'state': {}, 'param_groups': [...]}
            for pid, s in tmpl["state"].items():
                for k in s:
                    s[k] = blob["optim"]["state"][pid][k]
            run.optimizer.load_state_dict(tmpl)

    def step(i):
        if i == 40:
            p = tmp_path("c.pt")
            run.save(p)
            m = MLP(16, 32, 4)
            run.replaced(m, adamw(m.parameters(), 3e-3))
            run.load(p)
        x, y = cls_batch(i, noise=1.0)
        loss = F.cross_entropy(run.model(x), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    run = Run(model, opt, step, save=save, load=load, notes="model/optimizer replaced at step 40")
    return run


def evidence(run):
    return int(next(iter(run.optimizer.state.values()))["step"]) < META["steps"]
