"""
Six kinds of training that people do, each for 2,000 steps or more, and a seventh with a codebook.
"""

from __future__ import annotations

import copy
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR

from tests.incidents.healthy_runs.run import (
    HealthyRuns,
    Run,
    generator,
    perceptron,
    update,
    warm_up_and_cosine,
)
from tests.incidents.healthy_runs.transformer import Decoder, text_batch

RUNS = HealthyRuns()
STEPS = 2000


@RUNS.of(STEPS)
def character_model() -> Run:
    """Warm-up from 0, cosine to 0, decay groups, clipping, evaluations, a save every 250 steps, a resume at 1,000."""
    folder = Path(tempfile.mkdtemp(prefix="healthy-"))

    def make() -> tuple[Decoder, torch.optim.Optimizer, LambdaLR]:
        model = Decoder(dropout=0.1)
        groups = [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95))
        return model, optimizer, LambdaLR(optimizer, warm_up_and_cosine(100, STEPS))

    parts: list[Any] = list(make())

    def step(i: int) -> float:
        if i == 1000:
            torch.manual_seed(1000)
            parts[:] = make()
            state = torch.load(folder / "1000.pt", weights_only=True)
            for part, one in zip(parts, state["parts"], strict=True):
                part.load_state_dict(one)
            run.renew(parts[0], parts[1])
        model, optimizer, schedule = parts
        loss = update(optimizer, model.loss(*text_batch(i)), clip=model.parameters())
        schedule.step()
        if (i + 1) % 200 == 0:
            model.eval()
            with torch.no_grad():
                model.loss(*text_batch(i, seed=1))
            model.train()
        if (i + 1) % 250 == 0:
            state = {"parts": [part.state_dict() for part in parts], "step": i + 1}
            torch.save(state, folder / f"{i + 1}.pt")
        return loss

    run = Run(parts[0], parts[1], step)
    return run


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits: [1797, 1, 8, 8] in 0..1, and labels."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return images, torch.tensor(data.target)


def augmented_digits(step: int, size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of digits, moved by up to a pixel and with noise."""
    images, labels = digits()
    draw = generator(4, step)
    chosen = torch.randint(0, 1500, (size,), generator=draw)
    shift = torch.randint(-1, 2, (2,), generator=draw).tolist()
    moved = torch.roll(images[chosen], shift, (2, 3))
    return moved + 0.1 * torch.randn(moved.shape, generator=draw), labels[chosen]


def conv_net() -> nn.Sequential:
    """Three convolutions with BatchNorm."""

    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(after), nn.ReLU()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 10)]
    return nn.Sequential(*block(1, 8, 1), *block(8, 16, 2), *block(16, 32, 2), *head)


@RUNS.of(STEPS)
def digits_with_batch_norm() -> Run:
    """SGD with momentum, three drops of the learning rate, augmentation, label smoothing, evaluation every epoch."""
    model = conv_net()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = MultiStepLR(optimizer, [800, 1400, 1800], gamma=0.1)
    images, labels = digits()

    def step(i: int) -> float:
        values, targets = augmented_digits(i)
        loss = update(optimizer, F.cross_entropy(model(values), targets, label_smoothing=0.1))
        schedule.step()
        if i % 38 == 37:
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(images[1500:]), labels[1500:])
            model.train()
        return loss

    return Run(model, optimizer, step)


@RUNS.of(STEPS)
def generative_adversaries() -> Run:
    """Two players on a ring of points: the critic steps each time, the generator (with BatchNorm) every second time."""
    generator_net = nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.BatchNorm1d(32),
        nn.ReLU(), nn.Linear(32, 2),
    )  # fmt: skip
    critic = nn.Sequential(
        nn.Linear(2, 48), nn.LeakyReLU(0.2), nn.Linear(48, 48), nn.LeakyReLU(0.2), nn.Linear(48, 1)
    )
    both = nn.ModuleDict({"generator": generator_net, "critic": critic})
    for_critic = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.999))
    for_generator = torch.optim.Adam(generator_net.parameters(), lr=1e-3, betas=(0.5, 0.999))

    def step(i: int) -> float:
        draw = generator(5, i)
        angle = torch.randint(0, 8, (64,), generator=draw) * (torch.pi / 4)
        real = torch.stack([angle.cos(), angle.sin()], 1)
        real = real + 0.05 * torch.randn(64, 2, generator=draw)
        fake = generator_net(torch.randn(64, 8, generator=draw))
        loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
        value = update(for_critic, loss)
        if i % 2:
            for_generator.zero_grad()
            F.softplus(-critic(fake)).mean().backward()
            for_generator.step()
        return value

    return Run(both, for_critic, step, extra={"optimizers": [for_critic, for_generator]})


class LoRALinear(nn.Module):
    """A frozen layer and its adapter; B is zero at first."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        self.dropout = nn.Dropout(0.05)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base_layer(x) + 2 * self.lora_B(self.lora_A(self.dropout(x)))
        return out


@RUNS.of(STEPS)
def adapters_on_a_trained_model() -> Run:
    """LoRA on a model that has learned something else; only the adapters are saved."""
    model = Decoder()
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for i in range(150):
        ids, labels = text_batch(i, seed=2)
        update(optimizer, model.loss(ids.flip(1), labels.flip(1)))
    model.requires_grad_(False)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and "blocks" in name:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, LoRALinear(layer))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.01)
    schedule = LambdaLR(optimizer, lambda i: min(1.0, i / 50) * max(0.0, 1 - i / STEPS))
    path = Path(tempfile.mkdtemp(prefix="healthy-")) / "adapters.pt"

    def step(i: int) -> float:
        loss = update(optimizer, model.loss(*text_batch(i)), clip=trained)
        schedule.step()
        if i % 500 == 499:
            torch.save({k: v for k, v in model.state_dict().items() if "lora_" in k}, path)
        return loss

    return Run(model, optimizer, step)


class Experts(nn.Module):
    """Each character goes to one of eight experts; a bias, updated in place, keeps their loads alike."""

    def __init__(self, width: int, experts: int = 8) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.w1 = nn.Parameter(torch.randn(experts, width, width) / width**0.5)
        self.w2 = nn.Parameter(torch.randn(experts, width, width) / width**0.5)
        self.register_buffer("expert_bias", torch.zeros(experts))
        self.register_buffer("tokens_per_expert", torch.zeros(experts), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.gate(x).sigmoid()
        chosen = (scores + self.get_buffer("expert_bias")).argmax(-1)
        if self.training:
            self.get_buffer("tokens_per_expert").add_(
                torch.bincount(chosen.flatten(), minlength=scores.shape[-1])
            )
        every = torch.einsum("bth,ehd->bted", x, self.w1).relu()
        every = torch.einsum("bted,edh->bteh", every, self.w2)
        picked = F.one_hot(chosen, scores.shape[-1]) * scores
        return torch.einsum("bte,bteh->bth", picked, every)

    @torch.no_grad()
    def balance(self) -> None:
        """Loss-free balancing: the bias of what had too much goes down, of what had too little up."""
        tokens = self.get_buffer("tokens_per_expert")
        self.get_buffer("expert_bias").add_(1e-3 * (tokens.mean() - tokens).sign())
        tokens.zero_()


@RUNS.of(STEPS)
def experts_with_balancing_bias() -> Run:
    """A mixture of experts, balanced in a hook before the optimizer's step, saved now and then."""
    model = Decoder(feed=Experts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    layers = [module for module in model.modules() if isinstance(module, Experts)]

    def balance(*_: Any) -> None:
        for layer in layers:
            layer.balance()

    optimizer.register_step_pre_hook(balance)
    schedule = LambdaLR(optimizer, warm_up_and_cosine(50, STEPS))
    path = Path(tempfile.mkdtemp(prefix="healthy-")) / "model.pt"

    def step(i: int) -> float:
        loss = update(optimizer, model.loss(*text_batch(i)), clip=model.parameters())
        schedule.step()
        if i % 400 == 399:
            torch.save(model.state_dict(), path)
        return loss

    return Run(model, optimizer, step)


class Policy(nn.Module):
    """Actor and critic, with running statistics of what was observed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron(4, 32, 32)
        self.actor = nn.Linear(32, 2)
        self.critic = nn.Linear(32, 1)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("square", torch.ones(4))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        spread = self.get_buffer("square").sqrt() + 1e-3
        hidden = self.body((state - self.get_buffer("mean")) / spread).relu()
        return self.actor(hidden), self.critic(hidden)[:, 0]

    @torch.no_grad()
    def observe(self, state: torch.Tensor) -> None:
        """Running mean and variance, in place."""
        self.get_buffer("mean").lerp_(state.mean(0), 0.01)
        self.get_buffer("square").lerp_((state - self.get_buffer("mean")).square().mean(0), 0.01)
        self.get_buffer("seen").add_(len(state))


@RUNS.of(STEPS)
def reinforce_on_a_pole() -> Run:
    """REINFORCE with a baseline and entropy on 32 poles at once: a noisy loss around 0 that says little."""
    policy = Policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)

    def step(i: int) -> float:
        draw = generator(6, i)
        state = 0.05 * torch.randn(32, 4, generator=draw)
        states, actions, rewards = [], [], []
        alive = torch.ones(32)
        for _ in range(10):
            with torch.no_grad():
                chance = policy(state)[0].softmax(-1)
            action = torch.multinomial(chance, 1, generator=draw)[:, 0]
            states.append(state)
            actions.append(action)
            state = _push(state, action)
            alive = alive * (state[:, 2].abs() < 0.2)
            rewards.append(alive)
        returns = torch.stack(rewards).flip(0).cumsum(0).flip(0).flatten()
        policy.observe(torch.cat(states))
        logits, value = policy(torch.cat(states))
        chosen = F.cross_entropy(logits, torch.cat(actions), reduction="none")
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
        gain = returns - value.detach()
        loss = (chosen * gain).mean() + 0.5 * F.mse_loss(value, returns) - 0.01 * entropy
        return update(optimizer, loss, clip=policy.parameters())

    return Run(policy, optimizer, step)


def _push(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """A pole on a cart, roughly: place, speed, angle, turning; pushed left or right for a twentieth of a second."""
    place, speed, angle, turning = state.unbind(1)
    force = 2.0 * action - 1.0
    speed, turning = speed + 0.5 * force, turning + 0.5 * (10 * angle - 1.5 * force)
    return torch.stack([place + 0.05 * speed, speed, angle + 0.05 * turning, turning], 1)


class Codebook(nn.Module):
    """Vectors that follow the mean of what is nearest to them (no gradients); unused ones are drawn anew."""

    def __init__(self, entries: int = 16, dims: int = 8) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.randn(entries, dims))
        self.register_buffer("counts", torch.ones(entries))
        self.register_buffer("sums", self.get_buffer("vectors").clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vectors = self.get_buffer("vectors")
        nearest = torch.cdist(x, vectors).argmin(1)
        if self.training:
            self._follow(x.detach(), F.one_hot(nearest, len(vectors)).float())
        return x + (vectors[nearest] - x).detach()

    @torch.no_grad()
    def _follow(self, x: torch.Tensor, chosen: torch.Tensor) -> None:
        counts, sums = self.get_buffer("counts"), self.get_buffer("sums")
        counts.mul_(0.98).add_(0.02 * chosen.sum(0))
        sums.mul_(0.98).add_(0.02 * chosen.T @ x)
        unused = counts < 0.05
        counts[unused], sums[unused] = 1.0, x[: len(counts)][unused]
        self.get_buffer("vectors").copy_(sums / counts[:, None])


@RUNS.of(STEPS)
def codebook_that_follows() -> Run:
    """An autoencoder of digits with a codebook of moving averages."""
    encoder, codebook, decoder = perceptron(64, 48, 8), Codebook(), perceptron(8, 48, 64)
    model = nn.Sequential(encoder, codebook, decoder)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def step(i: int) -> float:
        values = augmented_digits(i)[0].flatten(1)
        code = encoder(values)
        chosen = codebook(code)
        commitment = F.mse_loss(code, chosen.detach())
        return update(optimizer, F.mse_loss(decoder(chosen), values) + 0.25 * commitment)

    return Run(model, optimizer, step)


@RUNS.of(STEPS)
def value_network_with_a_target() -> Run:
    """Q-learning: a frozen copy of the network is set equal to it every 200 steps; the loss rises each time."""
    online = perceptron(16, 32, 4)
    model = nn.ModuleDict({"online": online, "target": copy.deepcopy(online).requires_grad_(False)})
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
    reward = torch.randn(16, 4, generator=generator(7))

    def step(i: int) -> float:
        draw = generator(8, i)
        state = torch.randn(64, 16, generator=draw)
        action = torch.randint(0, 4, (64, 1), generator=draw)
        following = 0.9 * state + 0.3 * torch.randn(64, 16, generator=draw)
        with torch.no_grad():
            best = model["target"](following).amax(1, keepdim=True)
            aim = (state @ reward).gather(1, action) + 0.9 * best
        loss = update(optimizer, F.smooth_l1_loss(online(state).gather(1, action), aim))
        if i % 200 == 199:
            model["target"].load_state_dict(online.state_dict())
        return loss

    return Run(model, optimizer, step)
