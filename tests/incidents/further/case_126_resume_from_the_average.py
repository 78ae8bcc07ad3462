"""With EMA on, only the EMA model's weights are in the checkpoint; on resume the model itself is initialised from them,
while the optimizer's moments are those of the real weights."""

import copy

from common import *

META = dict(
    id="126",
    title="Resume puts the averaged weights into the model: the real ones were not saved",
    upstream="Megvii-BaseDetection/YOLOX#1318; ultralytics/yolov5#310",
    family="checkpoint",
    steps=60,
    bug_step=40,
    world_size=1,
    signals=[
        "weights after the resume are not those before it, though the optimizer's step goes on"
    ],
    loss_visible=True,
)


def build(healthy, rank=0, world_size=1):
    seed_all(126)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 3e-3)
    ema = {"model": copy.deepcopy(model).requires_grad_(False)}

    def step(i):
        if i == 40:
            path = tmp_path("latest_ckpt.pth")
            source = run.model if healthy else ema["model"]
            torch.save([source.state_dict(), run.optimizer.state_dict()], path)
            run.extra["trained"] = clone_state(run.model)
            m = TinyLM(d=32, layers=1, std=0.1)
            run.replaced(m, adamw(m.parameters(), 3e-3))
            weights, moments = torch.load(path)
            run.model.load_state_dict(weights)
            run.optimizer.load_state_dict(moments)
            run.extra["resumed"] = clone_state(run.model)
        x, y = lm_batch(i)
        loss = lm_loss(run.model, x, y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        with torch.no_grad():
            for average, p in zip(ema["model"].parameters(), run.model.parameters()):
                average.lerp_(p, 0.02)
        return loss.item()

    run = Run(model, opt, step, notes="model/optimizer replaced at step 40")
    return run


def evidence(run):
    trained, resumed = run.extra["trained"], run.extra["resumed"]
    return any(not torch.equal(trained[name], resumed[name]) for name in trained)
