"""A recommender: sparse tables under SparseAdam whose rows are cut to a norm of 1 in the forward (max_norm), a padding row, counts
of what was seen in an integer buffer, dense towers under Adagrad, batches of very uneven rows; some ids never come."""

from common import *

META = dict(
    id="h235",
    title="Recommender with sparse tables cut to a norm in the forward",
    upstream="-",
    family="healthy",
    steps=350,
    bug_step=None,
    world_size=1,
    tempts=[
        "weights changed in the forward",
        "rows that never move",
        "sparse gradients",
        "integer counters",
    ],
)


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.users = nn.Embedding(500, 16, sparse=True, max_norm=1.0)
        self.items = nn.EmbeddingBag(300, 16, sparse=True, mode="sum", padding_idx=0, max_norm=1.0)
        self.tower = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        self.register_buffer("seen", torch.zeros(300, dtype=torch.int32))

    def forward(self, user, item):
        with torch.no_grad():
            self.seen += torch.bincount(item.flatten(), minlength=300).int()
        return (self.tower(self.users(user)) * self.tower(self.items(item))).sum(-1)


def build(healthy=True, rank=0, world_size=1):
    seed_all(1235)
    model = TwoTowers()
    tables = torch.optim.SparseAdam([*model.users.parameters(), *model.items.parameters()], 1e-2)
    dense = torch.optim.Adagrad(model.tower.parameters(), 2e-2, foreach=False)

    def step(i):
        g = gen(1235, i)
        user = (torch.rand(32, generator=g).pow(3) * 450).long()
        item = (torch.rand(32, 4, generator=g).pow(2) * 250).long()
        liked = ((user % 7) == (item[:, 0] % 7)).float()
        loss = F.binary_cross_entropy_with_logits(model(user, item), liked)
        tables.zero_grad()
        dense.zero_grad()
        loss.backward()
        tables.step()
        dense.step()
        return loss.item()

    return Run(model, dense, step, extra={"optimizers": [tables, dense]})
