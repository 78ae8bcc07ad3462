"""
Runs of `python -m MODULE WORDS` in real processes that need not import torch first: forked from one that has.

Importing torch costs a process two seconds; thirty tests of the command line would take a minute for it. The forked
process leaves through the interpreter's own exit: exit handlers, tracebacks and statuses are real.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Preloaded:
    """The process to fork from; start it once, `close` it at the end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, folder: Path, words: list[str], environ: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """What `python -m WORDS` does in the folder, with exactly this environment."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        names = [str(folder / f".{kind}-{time.monotonic_ns()}") for kind in ("out", "err")]
        request = {"folder": str(folder), "words": words, "environ": environ, "files": names}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        out, err = (Path(name).read_text() for name in names)
        return subprocess.CompletedProcess(words, status, out, err)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _serve() -> dict[str, Any] | None:
    """Fork for each request; returns it in the child, None in the parent when there are no more."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return request
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return None


def _become(request: dict[str, Any]) -> None:
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environ"])
    for descriptor, name in zip((1, 2), request["files"], strict=True):
        with contextlib.closing(open(name, "wb")) as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv = ["-m", *request["words"][1:]]
    sys.path[0] = request["folder"]
    runpy.run_module(request["words"][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.path[0] = ""
    import torch

    torch.set_num_threads(1)
    from torch.distributed.checkpoint import state_dict as _preload  # noqa: F401

    # The first optimizer of a process imports Dynamo, which takes as long as torch itself.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).zero_grad()
    import gc

    import trainvitals.agent as _ours  # noqa: F401

    # What is there now is no object of the programs', and need not be looked through (nor copied) in each of them.
    gc.freeze()
    _request = _serve()
    if _request is not None:
        _become(_request)
