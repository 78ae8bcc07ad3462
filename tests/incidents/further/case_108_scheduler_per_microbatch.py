"""The scheduler is stepped once a microbatch and was made for optimizer steps: with an accumulation of 4 the learning
rate is 0 after a quarter of the training, and stays 0."""

from common import *

META = dict(
    id="108",
    title="Scheduler stepped per microbatch: learning rate 0 after a quarter of the steps",
    upstream="sgl-project/SpecForge#364; huggingface/accelerate#963; starVLA/starVLA#210; h2oai/h2o-llmstudio#663",
    family="schedule",
    steps=80,
    bug_step=20,
    earliest=0,
    world_size=1,
    planned_steps=80,
    signals=["lr is 0 and stays 0, nothing moves, gradients are not 0"],
    loss_visible=True,
)
ACCUM = 4


def build(healthy, rank=0, world_size=1):
    seed_all(108)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 3e-3)
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: max(0.0, 1 - t / META["steps"]))

    def step(i):
        total = 0.0
        opt.zero_grad()
        for j in range(ACCUM):
            x, y = lm_batch(i * ACCUM + j, bs=4)
            loss = lm_loss(model, x, y) / ACCUM
            loss.backward()
            total += loss.item()
            if j == ACCUM - 1:
                opt.step()
            if j == ACCUM - 1 or not healthy:
                sched_step(sched)
        run.extra["lr"] = opt.param_groups[0]["lr"]
        run.extra.setdefault("zero_from", i) if run.extra["lr"] == 0 else None
        return total

    run = Run(model, opt, step, scheduler=sched)
    return run


def sched_step(sched):
    import warnings

    with (
        warnings.catch_warnings()
    ):  # "step() before optimizer.step()": in upstream one line among thousands
        warnings.simplefilter("ignore")
        sched.step()


def evidence(run):
    return run.extra.get("zero_from", META["steps"]) < META["steps"] - 1
