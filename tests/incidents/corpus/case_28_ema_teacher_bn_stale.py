"""EMA/mean-teacher update iterates over parameters() only: the teacher's BatchNorm buffers stay at 0/1 for ever, its
eval-mode predictions are far from the student's."""

from common import *
import copy

META = dict(
    id="28",
    title="EMA teacher's BatchNorm running statistics never updated",
    upstream="CuriousAI/mean-teacher#9; facebookresearch/moco#70; pytorch/ignite#2590; lucidrains/ema-pytorch#8",
    family="ema",
    steps=40,
    bug_step=0,
    world_size=1,
    signals=["teacher buffers constant while teacher parameters move"],
    loss_visible=False,
)


class MeanTeacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = ConvNet()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self


def build(healthy, rank=0, world_size=1):
    seed_all(28)
    model = MeanTeacher()
    opt = sgd(model.student.parameters(), 0.1, momentum=0.9)

    def step(i):
        model.train()
        x, y = img_batch(i)
        loss = F.cross_entropy(model.student(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for t, s in zip(model.teacher.parameters(), model.student.parameters()):
                t.lerp_(s, 0.1)
            if healthy:
                for t, s in zip(model.teacher.buffers(), model.student.buffers()):
                    t.copy_(s)
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    t, s = run.model.teacher.bn1, run.model.student.bn1
    return bool((t.running_mean == 0).all() and s.running_mean.abs().sum() > 0.1)
