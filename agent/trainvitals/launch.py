"""
`trainvitals run SCRIPT`: an unchanged training script, with the agent attached at its first optimizer step.

The script must not notice: its `sys.argv`, `__name__`, `sys.path[0]`, exceptions, tracebacks and exit status are those
of `python SCRIPT`, and torch is imported when the script imports it (settings such as OMP_NUM_THREADS that it makes
before still count). Options before SCRIPT become environment variables, so that an `attach()` of the script's own, and
processes that it starts, use them too; and the start-up hook (startup.py) comes to those processes, be they ranks that
the script spawns.

Not reached: a script that leaves by os._exit; it has to call `attach()` or `agent.flush()` itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainvitals.environment import check_environment
from trainvitals.errors import BadSetting
from trainvitals.settings import SETTING_BY_NAME, SETTINGS
from trainvitals.startup import SWITCH

_EXAMPLES = """\
examples:
  trainvitals run train.py --lr 3e-4
  trainvitals run --monitor http://monitor:8420 --run llama-7b train.py
  trainvitals run --budget none --steps 50 -m mypackage.train
  torchrun --nproc-per-node 2 -m trainvitals run train.py

`python -m trainvitals run` is the same. Options go before SCRIPT; what comes after it is the script's.
"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to run: a script's path or a module's name, its arguments, and how many steps at most (0: all)."""

    name: str
    is_module: bool = False
    arguments: list[str] = field(default_factory=list)
    steps: int = 0


def main(arguments: Sequence[str]) -> int:
    """
    Run a script under the agent. Returns 0 when it came to its end, 2 when asked wrongly.

    The script's own exception, SystemExit or KeyboardInterrupt passes through.
    """
    options, rest = _split(list(arguments))
    try:
        target = _parse(options, rest)
    except BadSetting as error:
        sys.stderr.write(f"trainvitals run: {error}\n")
        return 2
    os.environ[SWITCH] = "1"
    # Here and not above: none of it is needed to say what was asked wrongly.
    from trainvitals.hosting import host

    host(target)
    return 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our options, and what begins at SCRIPT or -m; argparse itself would take the script's options for ours."""
    flags = {action for action, setting in _flags() if setting} | {"-h", "--help"}
    position = 0
    while position < len(arguments):
        word = arguments[position]
        if word == "-m" or not word.startswith("-") or word == "-":
            break
        if word == "--":
            return arguments[:position], arguments[position + 1 :]
        position += 1 if "=" in word or word in flags else 2
    return arguments[:position], arguments[position:]


def _flags() -> list[tuple[str, bool]]:
    """Each setting's option, and whether it stands alone."""
    return [(f"--{s.name.replace('_', '-')}", isinstance(s.default, bool)) for s in SETTINGS]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainvitals run",
        usage="trainvitals run [options] SCRIPT [ARGS]\n       trainvitals run [options] -m MODULE [ARGS]",
        description="Run an unchanged training script with the agent attached at its first optimizer step.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--steps", type=int, default=0, metavar="N",
        help="end the script after N optimizer steps, by SystemExit(0) where step N+1 would begin: "
        "its `finally` blocks run",
    )  # fmt: skip
    for (option, alone), setting in zip(_flags(), SETTINGS, strict=True):
        text = f"{setting.help} [{setting.environment}]".replace("%", "%%")
        if alone:
            parser.add_argument(
                option, dest=setting.name, action="store_const", const="true", help=text
            )
        else:
            parser.add_argument(option, dest=setting.name, metavar=setting.type.upper(), help=text)
    return parser


def _parse(options: list[str], rest: list[str]) -> Target:
    """The target; our options go to the environment. Raises BadSetting, or SystemExit as argparse does."""
    parser = _parser()
    given = vars(parser.parse_args(options))
    steps = given.pop("steps")
    if steps < 0:
        raise BadSetting(f"--steps {steps}: must be the number of steps after which to stop")
    is_module = rest[:1] == ["-m"]
    words = rest[1:] if is_module else rest
    if not words:
        parser.error("a MODULE is missing after -m" if is_module else "SCRIPT is missing")
    for name, text in given.items():
        if text is not None:
            _to_environment(name, text)
    check_environment()
    return Target(name=words[0], is_module=is_module, arguments=words[1:], steps=steps)


def _to_environment(name: str, text: str) -> None:
    setting = SETTING_BY_NAME[name]
    try:
        setting.parse(text)
    except (ValueError, TypeError) as error:
        raise BadSetting(
            f"--{name.replace('_', '-')} {text!r}: must be {setting.type} ({error})"
        ) from error
    os.environ[setting.environment] = text
