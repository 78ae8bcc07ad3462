"""
Which part a process plays in a training, told by the command that started it: trainer, launcher, helper, bystander.

For the start-up hook, which every Python process comes by: knows words only, and imports next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from pathlib import PurePath


class Part(Enum):
    """
    TRAINER: may train, for all that the command says. CHILD: of multiprocessing, which says in a moment what for.
    LAUNCHER: starts trainers, and trains nothing itself. BYSTANDER: neither it nor what it starts trains.
    """

    TRAINER = "trainer"
    CHILD = "child"
    LAUNCHER = "launcher"
    BYSTANDER = "bystander"


_LAUNCHERS = re.compile(
    r"torchrun|accelerate(-launch)?|deepspeed|fabric|composer|horovodrun|trainvitals"
)
_LAUNCHING_MODULES = (
    "torch.distributed.run",
    "torch.distributed.launch",
    "accelerate.commands",
    "deepspeed.launcher",
    "trainvitals",
    "trainvitals_monitor",
)
_BYSTANDERS = re.compile(r"pip[\d.]*|uv|virtualenv|__pip-runner__\.py")
_BYSTANDING_MODULES = ("pip", "ensurepip", "venv", "virtualenv", "build", "torch._inductor")
_COMPILES = re.compile(r"/torch/_inductor/")
"""torch.compile's pool of workers, and its autotuning, are programs of torch's own."""
_CHILD = re.compile(r"from multiprocessing\.(spawn|forkserver) import")
_TRACKER = re.compile(r"from multiprocessing\.(resource|semaphore)_tracker import")
_DATA_WORKER = "torch.utils.data._utils.worker"


def part_of(command: Sequence[str]) -> Part:
    """The part of the process that was started by this command (`sys.orig_argv`)."""
    kind, name = _program(command)
    if kind == "-c":
        if _CHILD.match(name):
            return Part.CHILD
        return Part.BYSTANDER if _TRACKER.match(name) else Part.TRAINER
    if kind == "-m":
        if _is_in(name, _LAUNCHING_MODULES):
            return Part.LAUNCHER
        return Part.BYSTANDER if _is_in(name, _BYSTANDING_MODULES) else Part.TRAINER
    script = PurePath(name).name
    if _LAUNCHERS.fullmatch(script):
        return Part.LAUNCHER
    if _BYSTANDERS.fullmatch(script) or _COMPILES.search(PurePath(name).as_posix()):
        return Part.BYSTANDER
    return Part.TRAINER


def trains(target: object) -> bool:
    """Whether a child of multiprocessing may train, by the function it is to run: not if it loads data."""
    return getattr(target, "__module__", None) != _DATA_WORKER


def _program(command: Sequence[str]) -> tuple[str, str]:
    """`-c` and its code, `-m` and its module, or "" and the script's path ("": standard input)."""
    words = iter(command[1:])
    for word in words:
        if not word.startswith("-") or word == "-":
            return "", word
        if word.startswith("--"):
            if word == "--check-hash-based-pycs":
                next(words, "")
            continue
        for place, letter in enumerate(word[1:], start=2):
            if letter in "cmWX":  # these take the rest of the word, or the next one
                value = word[place:] or next(words, "")
                if letter in "cm":
                    return f"-{letter}", value
                break
    return "", ""


def _is_in(module: str, packages: Sequence[str]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in packages)
