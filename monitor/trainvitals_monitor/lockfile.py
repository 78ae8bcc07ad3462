"""
Writes a contract's file: what people declared in it stays as it is, the lock below is made anew.

The few kinds of values that a lock has are written here, one line a tensor, so that a change of the model is a short
diff; reading is trainvitals.contract_file's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from trainvitals.contract_file import read_contract
from trainvitals.errors import BadSetting
from trainvitals.lock import Lock, LockedTensor

MARK = "# ---- The lock: made by `trainvitals contract write`; renew it with that, do not edit it. ----"

_DECLARATIONS = """\
# What this model's training state must look like: a lock file, to be committed beside the trainer.
#
# Check:  trainvitals check --contract {name} train.py
# Watch:  trainvitals.attach(model, optimizer, contract="{name}")
# Renew:  trainvitals contract write RUN-OR-FRAMES-FOLDER --out {name}   (what you declare here is kept)
#
# Declarations; names are patterns over canonical FQNs, such as "layers.*.norm.weight".
frozen = []         # never change
tied = []           # pairs that share one tensor: [["embed.weight", "output.weight"]]
ignore = []         # nothing is reported of these
# total_steps = 1000

[dtypes]            # pattern = dtype: "*.expert_bias" = "float32"

# [thresholds."norm-explosion"]     docs/detectors.md has their names and units; off = true switches a detector off
# growth = 0.5

"""


def write_lock(path: Path, lock: Lock, made_from: str) -> bool:
    """
    Write the file, or the lock of one that is there; False if nothing has changed.

    Raises BadSetting if a file is there that is no contract, and OSError.
    """
    old = ""
    if path.exists():
        read_contract(path)
        old = path.read_text(encoding="utf-8")
    declared, mark, before = old.partition(MARK)
    if old and not mark and "[lock" in old:
        raise BadSetting(
            f"contract {str(path)!r}: its lock stands without the line {MARK!r} before it, so that what is declared "
            "can't be told from it; put that line back, or write another file"
        )
    if not old:
        declared = _DECLARATIONS.format(name=path.name)
    made = "\n".join(_lines(lock, made_from))
    if mark and _without_source(before) == _without_source(made):
        return False
    path.write_text(f"{declared.rstrip()}\n\n{MARK}\n{made.strip()}\n", encoding="utf-8")
    return True


def _lines(lock: Lock, made_from: str) -> Iterator[str]:
    yield f"# From {made_from}."
    yield "[lock]"
    yield f"first_step = {lock.first_step}"
    yield f"last_step = {lock.last_step}"
    yield f"moved_within = {lock.moved_within}"
    for section, kind in (("params", "param"), ("buffers", "buffer")):
        yield ""
        yield f"[lock.{section}]"
        for name, tensor in lock.tensors.items():
            if tensor.kind == kind:
                yield f"{_text(name)} = {{ {', '.join(_fields(tensor))} }}"


def _fields(tensor: LockedTensor) -> Iterator[str]:
    yield f"dtype = {_text(tensor.dtype)}"
    yield f"shape = {list(tensor.shape)}"
    if tensor.kind == "param":
        yield f"trainable = {_flag(tensor.trainable)}"
    elif not tensor.persistent:
        yield "persistent = false"
    if tensor.moves is not None:
        yield f"moves = {_flag(tensor.moves)}"
    if tensor.late:
        yield "late = true"


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _text(value: str) -> str:
    """A TOML basic string: JSON's escapes are its own, but for the one character that JSON leaves bare."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _without_source(text: str) -> str:
    return "\n".join(line for line in text.strip().splitlines() if not line.startswith("#"))
