"""
torchtitan's own command, `python -m torchtitan.train`: its debug configurations, its tokenizer, its data loader and its
checkpoints, on a CPU (programs/titan_shims.py), with nothing edited.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainers.running import Ran, attached, needs, run_program

WORDS = (
    "the",
    "rank",
    "step",
    "model",
    "loss",
    "bias",
    "of",
    "each",
    "expert",
    "is",
    "seen",
    "by",
    "it",
)
TEXTS = 400
LLAMA = ("--module", "llama3", "--config", "llama3_debugmodel")
DEEPSEEK = ("--module", "deepseek_v3", "--config", "deepseek_v3_debugmodel")
REPLACED = ("--module", "titan_job", "--config", "replaced_bias")
SMALL = (
    "--training.seq-len=64",
    "--training.local-batch-size=2",
    "--checkpoint.enable",
    "--checkpoint.interval=4",
    # FlexAttention has no backward pass on a CPU.
    "--override.imports=titan_attention.on_cpu",
)
COMPILED = ("--compile.enable", "--compile.components=model", "--compile.backend=aot_eager")
LLAMA_SEEN = "FSDPLlama3Model, 51 tensors (0 watched), OptimizersContainer"
DEEPSEEK_SEEN = "FSDPDeepSeekV3Model, 99 tensors (10 watched), OptimizersContainer"

pytestmark = [pytest.mark.trainers, pytest.mark.slow]


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tokenizer of bytes and some text, where torchtitan's debug configurations look for theirs."""
    needs("torchtitan")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "tests" / "assets"
    _write_tokenizer(folder / "tokenizer")
    texts = folder / "c4_test" / "data.json"
    texts.parent.mkdir()
    drawn = [
        " ".join(WORDS[(text * word + text // 3) % len(WORDS)] for word in range(1, 61))
        for text in range(TEXTS)
    ]
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in drawn))
    return tmp_path


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    symbols = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.dumps({"bos_token": "<s>", "eos_token": "</s>"})
    (folder / "tokenizer_config.json").write_text(config)


def trained(folder: Path, job: tuple[str, ...], *, way: str, steps: int, alone: bool = True) -> Ran:
    """The command by one of the two ways: alone with what torchtitan reads of torchrun, or by torchrun with two ranks."""
    more = () if alone else ("--parallelism.spmd-backend=partial_dtensor",)
    return run_program(
        "torchtitan.train",
        *(*job, *SMALL, *more, f"--training.steps={steps}"),
        folder=folder,
        launcher=("-m", "trainvitals", "run") if way == "run" else (),
        is_switched_on=way == "switch",
        ranks=1 if alone else 2,
        prelude="import titan_shims; titan_shims.await_torchtitan()",
    )


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun would have told the only process."""
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("way", "more"), [("run", ()), ("switch", COMPILED)])
def test_a_job_and_its_resume(
    way: str, more: tuple[str, ...], assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Llama 3, whose module splits its fused QKV in every save: both jobs are one run, in which nothing is wrong.

    The second goes on as it was, or with its blocks compiled.
    """
    monkeypatch.setenv("TRAINVITALS_RUN", "titan")
    first = trained(assets, LLAMA, way=way, steps=6)
    assert attached(first) == [LLAMA_SEEN], first.output
    assert first.steps == list(range(1, 7))
    assert "2 saves and 0 loads seen" in first.output
    assert first.found == []
    second = trained(assets, (*LLAMA, *more), way=way, steps=10)
    assert attached(second) == [LLAMA_SEEN]
    assert second.runs == ["titan"]
    assert sorted(second.steps) == sorted([*range(1, 7), *range(1, 5)])
    assert "2 loads seen" in second.output
    assert second.found == [], second.findings


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("job", "expected"), [(DEEPSEEK, []), (REPLACED, ["slot-replaced"])])
def test_a_mixture_of_experts(job: tuple[str, ...], expected: list[str], assets: Path) -> None:
    """Its bias and its counters of tokens are watched; a configuration of the user's own replaces the bias."""
    ran = trained(assets, job, way="run", steps=8)
    assert attached(ran) == [DEEPSEEK_SEEN], ran.output
    assert ran.steps == list(range(1, 9))
    assert "2 saves and 0 loads seen" in ran.output
    assert ran.found == expected, ran.findings


@pytest.mark.parametrize("way", ["run", "switch"])
def test_by_torchrun(way: str, assets: Path) -> None:
    """Two ranks, which torchtitan shards (FSDP2)."""
    ran = trained(assets, LLAMA, way=way, steps=6, alone=False)
    assert attached(ran) == [f"{LLAMA_SEEN}, 2 ranks"], ran.output
    assert ran.steps == list(range(1, 7))
    assert sorted(ran.meshes) == [0, 1]
    assert "2 saves and 0 loads seen" in ran.output
    assert ran.found == [], ran.findings
