"""A new GradScaler each epoch begins at 65,536 again: gradients overflow until it has been halved often enough, and most
of the (short) epoch's steps are skipped.  Fix: make it once, and save its state."""

from common import *

META = dict(
    id="144",
    title="GradScaler made anew each epoch: most steps are skipped",
    upstream="conservationtechlab/animl-py#298 (fix #304); state not saved: allenai/tango#154",
    family="scaler",
    steps=60,
    bug_step=10,
    earliest=0,
    world_size=1,
    signals=[
        "scale jumps back to 65536 each epoch",
        "no update in most steps, gradients not finite",
    ],
    loss_visible=True,
)
PIXELS = 64  # the loss is a sum over them


def build(healthy, rank=0, world_size=1):
    seed_all(144)
    model = MLP(16, 32, 4)
    opt = sgd(model.parameters(), 0.002 / PIXELS, momentum=0.9)
    scaler = {"now": torch.amp.GradScaler("cpu")}
    skipped = []

    def step(i):
        if i % 10 == 0 and i and not healthy:
            scaler["now"] = torch.amp.GradScaler("cpu")
        x, y = cls_batch(i, noise=2.0)
        with torch.autocast("cpu", torch.float16):
            loss = PIXELS * F.cross_entropy(model(x).float(), y, reduction="sum")
        opt.zero_grad()
        scaler["now"].scale(loss).backward()
        before = scaler["now"].get_scale()
        scaler["now"].step(opt)
        scaler["now"].update()
        skipped.append(scaler["now"].get_scale() < before)
        return loss.item() / len(y) / PIXELS

    return Run(model, opt, step, extra={"skipped": skipped})


def evidence(run):
    return sum(run.extra["skipped"][10:]) > 25
