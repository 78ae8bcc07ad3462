"""Embedding and head are tied while the model is on the meta device; to_empty() materialises each by itself, so they are
two tensors from then on, though the configuration says tied.  Fix: tie again after to_empty."""

from common import *

META = dict(
    id="134",
    title="Weight tying made on the meta device is lost by to_empty",
    upstream="pytorch/torchtitan#2252; Modalities/modalities#357; NVIDIA-NeMo/Automodel#2213",
    family="tied",
    steps=40,
    bug_step=0,
    world_size=1,
    signals=["two parameters that are declared tied are different tensors from the start"],
    loss_visible=False,
)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok_embeddings = nn.Embedding(64, 32)
        self.mixer = nn.Linear(32, 32)
        self.output = nn.Linear(32, 64, bias=False)
        self.tie()

    def tie(self):
        self.output.weight = self.tok_embeddings.weight

    def init_weights(self):
        for p in self.parameters():
            nn.init.normal_(p, std=0.1)

    def forward(self, x):
        return self.output(torch.tanh(self.mixer(self.tok_embeddings(x))))


def build(healthy, rank=0, world_size=1):
    seed_all(134)
    with torch.device("meta"):
        model = Pair()
    for module in (model.tok_embeddings, model.mixer, model.output):  # as sharding wraps them
        module.to_empty(device="cpu")
    if healthy:
        model.tie()
    model.init_weights()
    opt = adamw(model.parameters(), 5e-3)

    def step(i):
        x, y = lm_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    tied = [("tok_embeddings.weight", "output.weight")]
    return Run(model, opt, step, extra={"declared_tied": tied})


def evidence(run):
    return run.model.output.weight is not run.model.tok_embeddings.weight
