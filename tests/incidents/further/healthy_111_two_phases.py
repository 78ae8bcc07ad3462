"""Two phases by design: warm-up of the head with AdamW, then the whole model with SGD and momentum, a new optimizer made
for the second phase and a plateau of zero learning rate for one step in between."""

from common import *

META = dict(
    id="h111",
    title="A new optimizer of another kind for the second phase, on purpose",
    upstream="-",
    family="healthy",
    steps=80,
    bug_step=None,
    world_size=1,
    tempts=["optimizer state begins anew", "parameters that begin to move late"],
)


def build(healthy=True, rank=0, world_size=1):
    model = pretrained_lm(steps=30)
    seed_all(1111)
    model.requires_grad_(False)
    model.output.requires_grad_(True)
    opt = adamw(model.output.parameters(), 5e-3)

    def step(i):
        if i == 30:
            model.requires_grad_(True)
            run.replaced(optimizer=sgd(model.parameters(), 0.05, momentum=0.9))
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        run.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        run.optimizer.step()
        return loss.item()

    run = Run(model, opt, step, notes="optimizer replaced at step 30")
    return run
