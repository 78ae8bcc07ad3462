"""A vocabulary made larger before the training; only the new rows are trained (the gradient of the others is masked), with
rank-stabilised adapters of rank 16 (scale alpha / sqrt(r)) and trained norms; the base is frozen."""

from common import *

META = dict(
    id="h206",
    title="New tokens with masked gradients, rank-stabilised adapters, trained norms",
    upstream="-",
    family="healthy",
    steps=200,
    bug_step=None,
    world_size=1,
    tempts=["most rows of a trained embedding never move", "B is zero at first", "large adapters"],
)


def build(healthy=True, rank=0, world_size=1):
    base = pretrained_lm(steps=60, vocab=64, d=32, layers=2, std=0.1)
    seed_all(1206)
    model = TinyLM(vocab=72, d=32, layers=2, std=0.1)
    state, old = model.state_dict(), base.state_dict()
    for name, value in old.items():
        state[name][: value.shape[0]].copy_(value)
    model.load_state_dict(state)
    inject_lora(
        model, r=16, scaling=16.0 / math.sqrt(16), targets=("wq", "wk", "wv", "wo"), ffn=True
    )
    for name, p in model.named_parameters():
        if "norm" in name or "tok_embeddings" in name or name.startswith("output"):
            p.requires_grad_(True)
        if p.shape[:1] == (72,):
            p.register_hook(lambda g: torch.cat([torch.zeros_like(g[:64]), g[64:]]))
    opt = adamw([p for p in model.parameters() if p.requires_grad], 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 2e-3, total_steps=201)

    def step(i):
        x, y = lm_batch(i, vocab=72, seed=7)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        opt.step()
        schedule.step()
        return loss.item()

    return Run(model, opt, step, scheduler=schedule)
