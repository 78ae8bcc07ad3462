"""A detector's usual fine-tuning: the backbone is frozen, its BatchNorm in eval mode from the first step on, while the
rest of the model is in train mode."""

from common import *

META = dict(
    id="h101",
    title="Backbone frozen by design, its BatchNorm in eval mode from the start (norm_eval)",
    upstream="-",
    family="healthy",
    steps=60,
    bug_step=None,
    world_size=1,
    tempts=["eval mode while training", "running statistics never move"],
)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = ConvNet()
        self.neck = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Linear(16, 4)
        self.backbone.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        return self.head(self.neck(self.backbone.features(x)))


def build(healthy=True, rank=0, world_size=1):
    seed_all(1101)
    model = Detector()
    opt = sgd([p for p in model.parameters() if p.requires_grad], 0.05, momentum=0.9)

    def step(i):
        model.train()
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i % 20 == 19:
            model.eval()
            with torch.no_grad():
                model(img_batch(1000 + i)[0])
        return loss.item()

    return Run(model, opt, step)
