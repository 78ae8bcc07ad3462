"""Four folds of a cross-validation in one process, one after the other: the same model object is set back to its first weights, with a
new optimizer, for each fold."""

from common import *

META = dict(
    id="h247",
    title="Four folds of a cross-validation with one model object",
    upstream="-",
    family="healthy",
    steps=240,
    bug_step=None,
    world_size=1,
    tempts=[
        "weights and statistics go back to the first ones",
        "optimizer made anew",
        "loss jumps back to chance",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1247)
    model = ConvNet(4, 8)
    first = {k: v.clone() for k, v in model.state_dict().items()}
    run = Run(model, adamw(model.parameters(), 3e-3), None)

    def step(i):
        if i and i % 60 == 0:
            model.load_state_dict(first)
            run.optimizer = adamw(model.parameters(), 3e-3)
        fold, at = divmod(i, 60)
        x, y = img_batch(1000 * (at % 20) + (at + fold) % 4)
        loss = F.cross_entropy(model(x), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    run.step = step
    return run
