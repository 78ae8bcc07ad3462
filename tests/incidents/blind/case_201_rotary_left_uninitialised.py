"""The model is made on the meta device, materialised with to_empty() and loaded: everything but the rotary frequencies, a
non-persistent buffer that no checkpoint holds and no initialiser fills.  What happens to be in that memory is used."""

from common import *

META = dict(
    id="201",
    title="Rotary frequencies are uninitialised memory after meta device and to_empty",
    upstream="huggingface/transformers#45902, #34234; Synthyra/FastPLMs#47; meta-pytorch/torchtune#218",
    family="init",
    steps=60,
    bug_step=0,
    world_size=1,
    signals=["inv_freq is all but zero from the start", "non-persistent buffer"],
    loss_visible=False,
)


def build(healthy, rank=0, world_size=1):
    seed_all(201)
    trained = pretrained_lm(steps=40, d=32, layers=2, rope=True, std=0.1)
    with torch.device("meta"):
        model = TinyLM(d=32, layers=2, rope=True, std=0.1)
    model.to_empty(device="cpu")
    model.load_state_dict(trained.state_dict())
    for module in model.modules():
        if isinstance(module, RotaryEmbedding):
            found = torch.full_like(module.inv_freq, 6.93e-18)  # stands for the memory's content
            module.inv_freq.copy_(module.compute() if healthy else found)
    opt = adamw(model.parameters(), 2e-3)

    def step(i):
        x, y = shifted_batch(i)
        loss = lm_loss(model, x, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return Run(model, opt, step)


def evidence(run):
    return float(run.model.layers[0].attention.rotary.inv_freq[0]) != 1.0
