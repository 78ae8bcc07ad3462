"""load_state_dict(assign=True) of a weight-tied model gives every name its own Parameter; embedding and lm_head drift
apart silently.  Fix: re-tie after loading (tie_weights)."""

from common import *

META = dict(
    id="17",
    title="Tied embedding/lm_head untied by load_state_dict(assign=True) on resume",
    upstream="pytorch/pytorch#188346; huggingface/accelerate#1197/#1204; TransformerLens#1725",
    family="tied",
    steps=60,
    bug_step=30,
    world_size=1,
    signals=[
        "parameter identity: two names no longer share storage",
        "named_parameters count grows",
    ],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(17)
    model = TinyLM(d=32, layers=1, tie=True, std=0.1)
    opt = adamw(model.parameters(), 5e-3)

    def step(i):
        if i == 30:  # resume: new process, weights assigned from file
            sd = {k: v.clone() for k, v in run.model.state_dict().items()}
            m = TinyLM(d=32, layers=1, tie=True, std=0.1)
            m.load_state_dict(sd, assign=True)
            if healthy:
                m.output.weight = m.tok_embeddings.weight
            for p in m.parameters():
                p.requires_grad_(True)
            run.replaced(m, adamw(m.parameters(), 5e-3))
        x, y = lm_batch(i)
        loss = lm_loss(run.model, x, y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    run = Run(model, opt, step, notes="model/optimizer replaced at step 30")
    return run


def evidence(run):
    return not torch.equal(run.model.output.weight, run.model.tok_embeddings.weight)
