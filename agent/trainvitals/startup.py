"""
The start-up hook: what becomes of a Python process where TRAINVITALS=1 is in the environment.

`trainvitals_startup.pth`, installed beside the package, asks for the variable as every interpreter starts, and only where
it is set imports this file. Nothing of ours and no torch is imported before the program itself has imported torch. A
process that trains nothing (parts.py tells) is left alone.

Touches: `sys.meta_path` until torch is imported; in a child of multiprocessing, `BaseProcess._bootstrap` until it begins
with its work. What happens then is arrival.py's.
"""

from __future__ import annotations

import os
import sys
from typing import Any

SWITCH = "TRAINVITALS"
_OFF = ("", "0", "false", "no", "off")
_has_begun = False


def begin() -> None:
    """Called by the .pth file, before the program; cost: 2 ms where the variable is set."""
    global _has_begun
    # In a virtual environment the interpreter goes through its .pth files twice.
    if _has_begun or os.environ.get(SWITCH, "").strip().lower() in _OFF:
        return
    _has_begun = True
    from trainvitals.parts import Part, part_of

    part = part_of(sys.orig_argv)
    if part is Part.TRAINER:
        _await_torch()
    elif part is Part.CHILD:
        _await_work()
    elif part is Part.BYSTANDER:
        del os.environ[SWITCH]


def _await_work() -> None:
    """In a child of multiprocessing: what it is for is known when it is sent its work, and it begins with that here."""
    # Imported by the command of such a child anyway.
    from multiprocessing.process import BaseProcess

    kind: Any = BaseProcess
    original = kind._bootstrap

    def bootstrap(process: BaseProcess, *args: Any, **kwargs: Any) -> Any:
        from trainvitals.parts import trains

        kind._bootstrap = original
        if trains(getattr(process, "_target", None)):
            _await_torch()
        return original(process, *args, **kwargs)

    kind._bootstrap = bootstrap


def _await_torch() -> None:
    if "torch" in sys.modules:
        _torch_is_here("torch")
        return
    from trainvitals.awaited import AwaitedModules

    AwaitedModules(["torch"], _torch_is_here)


def _torch_is_here(_module: str) -> None:
    """Inside the program's own `import torch`, into which nothing of ours may be raised."""
    try:
        from trainvitals.arrival import arrive

        arrive()
    except Exception as error:  # noqa: BLE001 - the guard is what may not be importable: no safetensors, another numpy
        _write(f"{SWITCH} is set, but nothing is watched: {error!r}")


def _write(line: str) -> None:
    stderr: Any = sys.stderr
    if stderr is not None:
        stderr.write(f"trainvitals: {line}\n")
