"""Quantisation-aware training: observers learn the ranges for 80 steps and are then switched off, BatchNorm's statistics are
frozen from step 120 on; weights pass through a rounding with a straight-through gradient."""

from common import *

META = dict(
    id="h210",
    title="Quantisation-aware training: observers off at 80, BatchNorm frozen at 120",
    upstream="-",
    family="healthy",
    steps=200,
    bug_step=None,
    world_size=1,
    tempts=[
        "buffers that stop moving",
        "BatchNorm in eval mode while training",
        "flags in buffers",
    ],
)


class FakeQuantise(nn.Module):
    def __init__(self, bits=8):
        super().__init__()
        self.levels = 2**bits - 1
        self.register_buffer("observer_enabled", torch.ones(1, dtype=torch.uint8))
        self.register_buffer("min_val", torch.tensor(float("inf")))
        self.register_buffer("max_val", torch.tensor(float("-inf")))
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))

    def forward(self, x):
        if self.training and self.observer_enabled.item():
            with torch.no_grad():
                low, high = x.detach().aminmax()
                if torch.isinf(self.min_val):
                    self.min_val.copy_(low)
                    self.max_val.copy_(high)
                self.min_val.lerp_(low, 0.01)
                self.max_val.lerp_(high, 0.01)
                scale = (self.max_val.clamp(min=0) - self.min_val.clamp(max=0)) / self.levels
                self.scale.copy_(scale.clamp(min=1e-6))
                zero = torch.round(-self.min_val.clamp(max=0) / self.scale)
                self.zero_point.copy_(zero.clamp(0, self.levels).int())
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, self.levels)


class Quantised(ConvNet):
    def __init__(self):
        super().__init__()
        self.q1, self.q2, self.q3 = FakeQuantise(), FakeQuantise(), FakeQuantise()

    def features(self, x):
        x = self.q1(F.relu(self.bn1(self.conv1(self.q3(x)))))
        x = self.q2(F.relu(self.bn2(self.conv2(x))))
        return x.mean((2, 3))


def build(healthy=True, rank=0, world_size=1):
    seed_all(1210)
    model = Quantised()
    opt = sgd(model.parameters(), 0.05, momentum=0.9)

    def step(i):
        if i == 80:
            for q in (model.q1, model.q2, model.q3):
                q.observer_enabled.zero_()
        if i == 120:
            model.bn1.eval()
            model.bn2.eval()
        x, y = img_batch(i)
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)
