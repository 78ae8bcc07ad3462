"""Policy gradients with advantages relative to their group: in many steps all answers of all groups are rewarded alike, the
advantages are 0 and so is the gradient; a reference policy is set to the policy every 60 steps; its KL keeps the policy near."""

import copy

from common import *

META = dict(
    id="h243",
    title="Group-relative policy gradients, often with no advantage at all",
    upstream="-",
    family="healthy",
    steps=300,
    bug_step=None,
    world_size=1,
    tempts=[
        "gradients exactly 0 in many steps",
        "a frozen network that jumps",
        "a loss around 0 that means nothing",
    ],
)


def build(healthy=True, rank=0, world_size=1):
    policy = pretrained_lm(steps=60, d=32, layers=1, std=0.1)
    seed_all(1243)
    reference = copy.deepcopy(policy).requires_grad_(False).eval()
    model = nn.ModuleDict({"policy": policy, "reference": reference})
    opt = adamw(policy.parameters(), 1e-3)

    def step(i):
        if i and i % 60 == 0:
            reference.load_state_dict(policy.state_dict())
        g = gen(1243, i)
        x = torch.randint(0, 64, (2, 8), generator=g).repeat_interleave(4, 0)
        with torch.no_grad():
            answers = torch.multinomial(policy(x)[:, -1].softmax(-1), 1, generator=g)[:, 0]
        reward = (answers % 8 == x[:, 0] % 8).float()
        grouped = reward.view(2, 4)
        advantage = (
            (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
        ).flatten()
        new = policy(x)[:, -1].log_softmax(-1).gather(1, answers[:, None])[:, 0]
        with torch.no_grad():
            old = reference(x)[:, -1].log_softmax(-1).gather(1, answers[:, None])[:, 0]
        ratio = old - new
        kl = ratio.exp() - ratio - 1
        loss = (
            (-(advantage * new) + 0.02 * kl).mean()
            if advantage.abs().sum() > 0
            else 0.0 * new.sum()
        )
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        opt.step()
        return loss.item()

    return Run(model, opt, step)
