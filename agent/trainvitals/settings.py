"""
Every setting of the agent, once: name, type, default, environment variable, help.

`attach(**settings)`, the environment, `--help` and docs/settings.md are all made from SETTINGS. An argument beats the
environment, the environment beats the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainvitals.errors import BadSetting


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting; `parse` makes its value from an argument or from the environment's text, or raises ValueError."""

    name: str
    type: str
    default: Any
    help: str
    parse: Callable[[Any], Any]

    @property
    def environment(self) -> str:
        """The environment variable that sets it."""
        return f"TRAINVITALS_{self.name.upper()}"


def _text(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError("a text")
    return os.fspath(value)


def _run_name(value: Any) -> str:
    name = _text(value)
    if len(name) > 200 or not name.isprintable():
        raise ValueError("a run's name: up to 200 printable characters")
    return name


def _budget(value: Any) -> float | None:
    if value is None or value in ("none", "None"):
        return None
    share = float(value)
    if not 0 < share <= 1:
        raise ValueError("a share of step time above 0 and up to 1, or None for no limit")
    return share


def _positive_int(value: Any) -> int:
    number = int(value)
    if number < 1 or (not isinstance(value, str) and number != value):
        raise ValueError("a whole number of at least 1")
    return number


def _positive_float(value: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError("a number above 0")
    return number


def _globs(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    globs = tuple(value)
    if not all(isinstance(glob, str) for glob in globs):
        raise ValueError("FQN patterns, such as 'layers.*.router.*'")
    return globs


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("true or false")


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="run",
        type="text",
        default="",
        parse=_text,
        help="name of the run; the same name continues it after a restart "
        "(default: the scheduler's job, else script name and time)",
    ),
    Setting(
        name="monitor",
        type="URL or folder",
        default="trainvitals-frames",
        parse=_text,
        help="where frames go: http(s)://host:port of a monitor, or a folder for `trainvitals replay`",
    ),
    Setting(
        name="budget",
        type="share or none",
        default=0.005,
        parse=_budget,
        help="share of step time that the agent may use, such as 0.005; none: look at everything at every step",
    ),
    Setting(
        name="watch",
        type="FQN patterns",
        default=(),
        parse=_globs,
        help="tensors to look at every step, beside expert biases, LoRA matrices and the like; "
        "in the environment separated by commas",
    ),
    Setting(
        name="contract",
        type="path",
        default="",
        parse=_text,
        help="file of a contract: what must hold of the state, and the lock of its tensors (docs/contract.md)",
    ),
    Setting(
        name="reference",
        type="text",
        default="",
        parse=_run_name,
        help="name of a good run of the same script, which the monitor has: where this run parts from it is told",
    ),
    Setting(
        name="attempt",
        type="text",
        default="",
        parse=_text,
        help="key that all ranks of one launch share (default: from the launcher and the scheduler)",
    ),
    Setting(
        name="token_file",
        type="path",
        default="",
        parse=_text,
        help="file that holds the monitor's ingest token",
    ),
    Setting(
        name="ca_file",
        type="path",
        default="",
        parse=_text,
        help="certificates (PEM) to trust for an https:// monitor, instead of the system's",
    ),
    Setting(
        name="spool",
        type="folder",
        default="",
        parse=_text,
        help="where frames wait while the monitor is away (default: a folder of the user's cache)",
    ),
    Setting(
        name="spool_bytes",
        type="bytes",
        default=256 << 20,
        parse=_positive_int,
        help="size of the spool; beyond it the oldest frames are dropped and counted",
    ),
    Setting(
        name="queue_bytes",
        type="bytes",
        default=32 << 20,
        parse=_positive_int,
        help="memory for facts that wait for the sender; beyond it facts are dropped and counted",
    ),
    Setting(
        name="interval_s",
        type="seconds",
        default=1.0,
        parse=_positive_float,
        help="time that facts wait before a frame is made of them; up to eight times that where sending takes over a fifth of "
        "the budget",
    ),
    Setting(
        name="heartbeat_s",
        type="seconds",
        default=10.0,
        parse=_positive_float,
        help="time between frames when there are no steps (evaluation, a long save)",
    ),
    Setting(
        name="close_timeout_s",
        type="seconds",
        default=10.0,
        parse=_positive_float,
        help="longest time that close() and flush() wait for the monitor; what is left is spooled",
    ),
    Setting(
        name="quiet",
        type="true or false",
        default=False,
        parse=_flag,
        help="do not log the attach line, findings and the summary at the end",
    ),
)
SETTING_BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, resolved; the fields are those of SETTINGS (a test holds the two together)."""

    run: str
    monitor: str
    budget: float | None
    watch: tuple[str, ...]
    contract: str
    reference: str
    attempt: str
    token_file: str
    ca_file: str
    spool: str
    spool_bytes: int
    queue_bytes: int
    interval_s: float
    heartbeat_s: float
    close_timeout_s: float
    quiet: bool

    @property
    def to_folder(self) -> bool:
        """Whether frames go to a folder (nobody judges them now) rather than to a monitor."""
        return "://" not in self.monitor


def resolve(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """
    Arguments, then the environment, then defaults. An argument of `run` or `monitor` that is None counts as not given.

    Raises BadSetting (a ValueError) that names the setting, what was given and what is allowed.
    """
    environ = os.environ if environ is None else environ
    unknown = sorted(set(given) - set(SETTING_BY_NAME))
    if unknown:
        raise BadSetting(
            f"no setting {unknown[0]!r}; the settings are: {', '.join(sorted(SETTING_BY_NAME))}"
        )
    values = {setting.name: _resolve(setting, given, environ) for setting in SETTINGS}
    if "://" in values["monitor"] and not values["monitor"].startswith(("http://", "https://")):
        raise BadSetting(
            f"monitor={values['monitor']!r}: give http://host:port, https://host:port or a folder"
        )
    return Settings(**values)


def _resolve(setting: Setting, given: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    value, source = setting.default, ""
    if given.get(setting.name) is not None or (setting.name in given and setting.name == "budget"):
        value, source = given[setting.name], f"{setting.name}="
    elif setting.environment in environ:
        value, source = environ[setting.environment], f"{setting.environment}="
    if not source:
        return value
    try:
        return setting.parse(value)
    except (ValueError, TypeError) as error:
        raise BadSetting(
            f"{source}{value!r}: must be {setting.type} ({error}). {setting.help}"
        ) from error
