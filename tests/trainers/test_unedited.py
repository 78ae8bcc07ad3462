"""
Programs that nobody edited, by `trainvitals run` and by TRAINVITALS=1: the model and its optimizer are found, a fault is
found, and a sound run is left in peace.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from tests.trainers.running import PROGRAMS, Ran, attached, needs, run_program
from trainvitals.speech import _Stderr

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
WAYS = ("run", "switch")

pytestmark = [pytest.mark.trainers, pytest.mark.slow]


def unedited(folder: Path, way: str, program: str, *words: str, ranks: int = 1) -> Ran:
    """The program by one of the two ways, under torchrun where there are several ranks."""
    launcher = TORCHRUN if ranks > 1 else ()
    if way == "run":
        return run_program(
            PROGRAMS / program,
            *words,
            folder=folder,
            launcher=(*launcher, "-m", "trainvitals", "run"),
        )
    return run_program(
        PROGRAMS / program, *words, folder=folder, launcher=launcher, is_switched_on=True
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("trainer", "model", "expected", "ranks"),
    [
        ("plain", "Net, 10 tensors (0 watched), AdamW", "gradient-missing", 1),
        ("accelerate", "Net, 10 tensors (0 watched), AdamW", "gradient-missing", 1),
        ("lightning", "Module, 10 tensors (0 watched), AdamW", "gradient-missing", 1),
        (
            "ddp",
            "DistributedDataParallel, 10 tensors (0 watched), AdamW, 2 ranks",
            "replica-divergence",
            2,
        ),
        ("fsdp2", "FSDPNet, 10 tensors (0 watched), AdamW, 2 ranks", "gradient-missing", 2),
    ],
)
def test_a_trainer_as_its_users_write_it(
    trainer: str, model: str, expected: str, ranks: int, way: str, tmp_path: Path
) -> None:
    """One line says what was attached to, each step of each rank is seen; the fault is found, its sound twin is silent."""
    if ranks == 1 and trainer != "plain":
        needs(trainer)
    for mode in ("sound", "faulty"):
        folder = tmp_path / mode
        folder.mkdir()
        ran = unedited(folder, way, "unedited.py", trainer, mode, ranks=ranks)
        assert attached(ran) == [model], ran.output
        assert len(ran.runs) == 1
        assert ran.steps_of == {rank: list(range(1, 41)) for rank in range(ranks)}
        assert "never seen" in ran.output
        assert "nothing was attached" not in ran.output
        assert (ran.found == []) if mode == "sound" else (expected in ran.found), ran.findings


@pytest.mark.parametrize("way", WAYS)
def test_transformers_two_trainings(way: str, tmp_path: Path) -> None:
    """A pre-training, then LoRA with a step size far too large: found in the second run; sound, neither says anything."""
    needs("transformers", "peft")
    for mode in ("sound", "step"):
        folder = tmp_path / mode
        folder.mkdir()
        ran = unedited(folder, way, "lora.py", mode, "unedited")
        first, second = attached(ran)
        assert first.startswith("LlamaForCausalLM, ")
        assert second.startswith("PeftModel, ")
        assert len(ran.runs) == 2
        assert sorted(ran.steps) == sorted([*range(1, 81), *range(1, 31)])
        assert (ran.found == []) if mode == "sound" else ("lora-a-growth" in ran.found)


@pytest.mark.parametrize(("mode", "expected"), [("sound", []), ("stale", ["slot-replaced"])])
def test_torchtitan_switched_on(mode: str, expected: list[str], tmp_path: Path) -> None:
    """As by `trainvitals run`, which tests/trainers/test_incidents.py has."""
    needs("torchtitan")
    ran = unedited(tmp_path, "switch", "expert_bias.py", mode)
    assert len(attached(ran)) == 1
    assert "OptimizersContainer" in attached(ran)[0]
    assert ran.steps == list(range(1, 21))
    assert ran.found[:1] == expected


@pytest.mark.parametrize(("mode", "expected"), [("sound", []), ("bf16", ["contract-broken"])])
def test_megatron_core_switched_on(mode: str, expected: list[str], tmp_path: Path) -> None:
    """The model is found by its fp32 masters, which the optimizer holds; `trainvitals run`: test_incidents.py."""
    needs("megatron")
    ran = unedited(tmp_path, "switch", "router_dtype.py", mode)
    assert len(attached(ran)) == 1
    assert attached(ran)[0].startswith("DistributedDataParallel, ")
    assert ran.found[:1] == expected


def test_a_progress_bar_is_not_written_into(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of ours stand by themselves where tqdm draws, as in transformers' and Lightning's trainers."""
    needs("tqdm")
    from tqdm import tqdm

    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with tqdm(total=3, file=sys.stderr) as bar:
        bar.update()
        _Stderr().emit(logging.makeLogRecord({"msg": "run x"}))
    assert "\ntrainvitals: run x\n" in capsys.readouterr().err.replace("\r", "\n")
    _Stderr().emit(logging.makeLogRecord({"msg": "run y"}))
    assert capsys.readouterr().err == "trainvitals: run y\n"
