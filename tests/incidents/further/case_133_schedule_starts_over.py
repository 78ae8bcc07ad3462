"""The scheduler's state is not in the checkpoint: after the resume it begins with its warm-up again, on a trained model,
while weights, moments and step counter go on."""

from common import *

META = dict(
    id="133",
    title="Learning-rate schedule starts over at the resume",
    upstream="YehLi/xmodaler#15; lightly-ai/lightly-train#301; vllm-project/speculators#900",
    family="schedule",
    steps=80,
    bug_step=50,
    world_size=1,
    planned_steps=80,
    signals=["lr after the resume is far from the one before it; the optimizer's step is not"],
    loss_visible=False,
)


def schedule(opt):
    def factor(t):
        return min(1.0, (t + 1) / 10) * 0.5 * (1 + math.cos(math.pi * min(1.0, t / META["steps"])))

    return torch.optim.lr_scheduler.LambdaLR(opt, factor)


def build(healthy, rank=0, world_size=1):
    seed_all(133)
    model = TinyLM(d=32, layers=1, std=0.1)
    opt = adamw(model.parameters(), 5e-3)

    def step(i):
        if i == 50:
            path = tmp_path("resume.pt")
            parts = [run.model, run.optimizer, *([run.scheduler] if healthy else [])]
            torch.save([part.state_dict() for part in parts], path)
            m = TinyLM(d=32, layers=1, std=0.1)
            o = adamw(m.parameters(), 5e-3)
            states = torch.load(path)
            m.load_state_dict(states[0])
            o.load_state_dict(states[1])
            before = run.optimizer.param_groups[0]["lr"]
            for group in o.param_groups:
                group.pop("initial_lr"), group.update(lr=5e-3)
            run.replaced(m, o, schedule(o))
            if healthy:
                run.scheduler.load_state_dict(states[2])
                o.param_groups[0]["lr"] = run.scheduler.get_last_lr()[0]
            run.extra["lr"] = before, o.param_groups[0]["lr"]
        x, y = lm_batch(i)
        loss = lm_loss(run.model, x, y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.scheduler.step()
        return loss.item()

    run = Run(model, opt, step, scheduler=schedule(opt), notes="all replaced at step 50")
    return run


def evidence(run):
    before, after = run.extra["lr"]
    return abs(after - before) > 0.2 * before
