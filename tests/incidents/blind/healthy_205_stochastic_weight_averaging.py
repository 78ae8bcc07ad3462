"""Stochastic weight averaging: from step 150 on the learning rate is constant and every 10 steps the weights go into an
average; its BatchNorm statistics are made anew at the end, from the training data."""

from common import *
from torch.optim.swa_utils import SWALR, AveragedModel

META = dict(
    id="h205",
    title="Stochastic weight averaging with statistics made anew at the end",
    upstream="-",
    family="healthy",
    steps=260,
    bug_step=None,
    world_size=1,
    tempts=["an average that does not move for 150 steps", "statistics reset at the end"],
)


class WithAverage(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = ConvNet()
        self.swa = AveragedModel(self.net)

    def forward(self, x):
        return self.net(x)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1205)
    model = WithAverage()
    opt = sgd(model.net.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 150)
    constant = SWALR(opt, swa_lr=0.02, anneal_epochs=5)

    def step(i):
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if i < 150:
            cosine.step()
        elif i % 10 == 0:
            model.swa.update_parameters(model.net)
            constant.step()
        if i == 254:
            torch.optim.swa_utils.update_bn([img_batch(k)[0] for k in range(10)], model.swa)
            torch.save(model.swa.module.state_dict(), tmp_path("swa.pt"))
        return loss.item()

    return Run(model, opt, step)
