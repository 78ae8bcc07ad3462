"""Mixtral-style MoE: output_router_logits=False (default) means aux_loss is never computed although
router_aux_loss_coef > 0; nothing balances the router and one expert keeps (almost) everything.
Both twins start from the same imbalanced router; only the healthy one recovers (within ~20 steps)."""

from common import *

META = dict(
    id="43",
    title="Load-balancing loss silently not computed; router collapses",
    upstream="huggingface/transformers#44242 (fix #44586)",
    family="router",
    steps=80,
    bug_step=20,
    earliest=0,
    world_size=1,
    signals=["expert load entropy falls", "starved experts get no tokens/gradients"],
    loss_visible=False,
)
COEF = 0.5


def load_balancing_loss(logits, idx, E):
    p = logits.softmax(-1)
    f = F.one_hot(idx[:, 0], E).float().mean(0)
    return E * (f * p.mean(0)).sum()


def make(seed):
    seed_all(seed)
    model = TinyLM(d=16, layers=1, ffn=lambda: MoE(16, 16, 4, score="softmax", bias=False), std=0.5)
    m = moes(model)[0]
    with torch.no_grad():  # both twins start imbalanced (common direction favours expert 0)
        u = torch.ones(16) / 4
        model.layers[0].ffn_norm.bias.copy_(2 * u)
        m.gate.weight[0] += 2 * u
    return model, m


def build(healthy, rank=0, world_size=1):
    model, m = make(43)
    opt = adamw(model.parameters(), 1e-2)

    def step(i):
        m.tokens_per_expert.zero_()
        x, y = lm_batch(i, bs=16)
        ce = lm_loss(model, x, y)
        loss = ce + (COEF * load_balancing_loss(m.last_logits, m.last_idx, 4) if healthy else 0)
        opt.zero_grad()
        loss.backward()
        opt.step()
        run.extra.setdefault("load", []).append(
            (m.tokens_per_expert / m.tokens_per_expert.sum()).tolist()
        )
        return ce.item()

    run = Run(model, opt, step)
    return run


def evidence(run):
    last = torch.tensor(run.extra["load"][-20:]).mean(0)
    return float(last.min()) < 0.08
