"""Federated averaging simulated in one process: the model object is given the global weights, trained for eight steps on one client's
data by a fresh optimizer, and so on; after four clients the global weights become the mean."""

from common import *

META = dict(
    id="h249",
    title="Federated averaging, clients simulated with one model object",
    upstream="-",
    family="healthy",
    steps=320,
    bug_step=None,
    world_size=1,
    tempts=[
        "weights overwritten every 8 steps",
        "optimizer made anew every 8 steps",
        "moments never get old",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1249)
    model = MLP(16, 32, 4)
    run = Run(model, sgd(model.parameters(), 0.05, momentum=0.9), None)
    state = {"global": clone_state(model), "trained": []}

    def step(i):
        if i and i % 8 == 0:
            state["trained"].append(clone_state(model))
            if len(state["trained"]) == 4:
                for name in state["global"]:
                    state["global"][name] = sum(c[name] for c in state["trained"]) / 4
                state["trained"] = []
            model.load_state_dict(state["global"])
            run.optimizer = sgd(model.parameters(), 0.05, momentum=0.9)
        client = i // 8 % 4
        x, y = cls_batch(i, noise=1.0)
        keep = (y + client) % 4 != 0
        loss = F.cross_entropy(model(x[keep]), y[keep])
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    run.step = step
    return run
