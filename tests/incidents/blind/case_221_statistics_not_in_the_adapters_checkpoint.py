"""A fine-tune with adapters over a network with BatchNorm.  Only what the adapters hold is saved; the running statistics, which
moved with the new data, are those of the pre-training again after the resume."""

from common import *

META = dict(
    id="221",
    title="An adapter's checkpoint lacks the running statistics that moved with it",
    upstream="huggingface/peft#1732 (fix #1734); torch/nn#1165",
    family="checkpoint",
    steps=90,
    bug_step=45,
    earliest=0,
    world_size=1,
    signals=[
        "buffers that move are in no checkpoint",
        "they are back at old values after the resume",
    ],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(221)
    base = ConvNet(4, 8)
    opt = adamw(base.parameters(), 5e-3)
    for i in range(40):
        x, y = img_batch(i, seed=9)
        opt.zero_grad()
        F.cross_entropy(base(x), y).backward()
        opt.step()
    pretrained = clone_state(base)

    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = ConvNet(4, 8)
            self.base.load_state_dict(pretrained)
            self.base.requires_grad_(False)
            torch.manual_seed(221)
            self.lora_A = nn.Linear(16, 4, bias=False)
            self.lora_B = nn.Linear(4, 4, bias=False)
            nn.init.zeros_(self.lora_B.weight)

        def forward(self, x):
            h = self.base.features(x)
            return self.base.fc(h) + 2.0 * self.lora_B(self.lora_A(h))

    def make():
        model = Adapted()
        return model, adamw([p for p in model.parameters() if p.requires_grad], 5e-3)

    def step(i):
        if i == 45:
            path = tmp_path("adapter.pt")
            state = run.model.state_dict()
            kept = {k: v for k, v in state.items() if "lora_" in k or healthy and "running_" in k}
            torch.save({"adapter": kept, "optim": run.optimizer.state_dict()}, path)
            run.extra["before"] = run.model.base.bn1.running_mean.clone()
            run.replaced(*make())
            blob = torch.load(path)
            run.model.load_state_dict(blob["adapter"], strict=False)
            run.optimizer.load_state_dict(blob["optim"])
            run.extra["after"] = run.model.base.bn1.running_mean.clone()
        x, y = img_batch(i)
        loss = F.cross_entropy(run.model(x * 1.5 + 1.0), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        return loss.item()

    model, opt = make()
    run = Run(model, opt, step)
    return run


def evidence(run):
    return not torch.equal(run.extra["before"], run.extra["after"])
