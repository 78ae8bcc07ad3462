"""
Running somebody's program inside ours, as `python SCRIPT` or `python -m MODULE` would.

The program gets a `__main__` of its own that stays until the process ends: what it leaves running (threads, exit
handlers, pickles of its classes) still finds it. (runpy's functions take it away on return.)
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import pkgutil
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING

from trainvitals.arrival import Arrival
from trainvitals.parts import Part, part_of

if TYPE_CHECKING:
    from trainvitals.launch import Target


def host(target: Target) -> None:
    """Run the target to its end under the agent; whatever it raises passes through."""
    words = ["-m", target.name] if target.is_module else [target.name]
    # To a launcher's processes the start-up hook comes.
    is_launcher = part_of([sys.executable, *words]) is Part.LAUNCHER
    arrival = Arrival(steps=target.steps, speaks_to_all=not is_launcher)
    if not is_launcher:
        arrival.await_torch()
    try:
        with _own_tracebacks():
            if target.is_module:
                _run_module(target.name, target.arguments)
            else:
                _run_script(target.name, target.arguments)
    finally:
        arrival.leave()


def _run_script(path: str, arguments: list[str]) -> None:
    sys.argv = [path, *arguments]
    if not Path(path).exists():
        # In the interpreter's own words, and with its exit status.
        sys.stderr.write(f"{sys.executable}: can't open file {os.path.abspath(path)!r}: ")
        sys.stderr.write("[Errno 2] No such file or directory\n")
        raise SystemExit(2)
    if Path(path).is_dir() or pkgutil.get_importer(path) is not None:
        runpy.run_path(path, run_name="__main__")  # a folder or zip file with a __main__.py
        return
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    file_name = os.path.abspath(path)  # as the interpreter has it since Python 3.9
    with io.open_code(file_name) as file:
        code = compile(file.read(), file_name, "exec")
    _execute(code, file_name, spec=None)


def _run_module(name: str, arguments: list[str]) -> None:
    _set_first_path(os.getcwd())
    sys.argv = ["-m", *arguments]
    spec = _module_spec(name)
    get_code = getattr(spec.loader, "get_code", None)
    code = get_code(spec.name) if get_code is not None else None
    if code is None:
        raise SystemExit(f"{sys.executable}: No code object available for {spec.name}")
    sys.argv[0] = spec.origin or name
    _execute(code, spec.origin or name, spec=spec)


def _module_spec(name: str) -> ModuleSpec:
    """The module's, or its `__main__`'s if it is a package."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{sys.executable}: Error while finding module {name!r} ({error})"
        ) from error
    if spec is None:
        raise SystemExit(f"{sys.executable}: No module named {name}")
    if spec.submodule_search_locations is None:
        return spec
    if name.endswith(".__main__"):
        raise SystemExit(f"{sys.executable}: cannot use package as __main__ module")
    return _module_spec(f"{name}.__main__")


def _execute(code: CodeType, path: str, spec: ModuleSpec | None) -> None:
    main = ModuleType("__main__")
    main.__file__ = path
    main.__spec__ = spec
    main.__package__ = spec.parent if spec is not None else None
    main.__loader__ = spec.loader if spec is not None else None
    vars(main)["__builtins__"] = builtins
    vars(main)["__cached__"] = spec.cached if spec is not None else None
    _displaced.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    exec(code, vars(main))  # noqa: S102 - the user's own program is what we were asked to run


# Our own __main__ module: nobody else refers to it, and its functions are still running.
_displaced: list[ModuleType] = []


def _set_first_path(folder: str) -> None:
    """`sys.path[0]` as the interpreter sets it; nothing under -P and -I."""
    if not getattr(sys.flags, "safe_path", False) and not sys.flags.isolated:
        sys.path[0] = folder


@contextmanager
def _own_tracebacks() -> Iterator[None]:
    """An uncaught exception is shown as the program's own, without the frames of ours that called it."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        hook = sys.excepthook

        def show(
            kind: type[BaseException], error: BaseException, frames: TracebackType | None
        ) -> None:
            inner = _inner(frames)
            hook(kind, error.with_traceback(inner), inner)

        sys.excepthook = show
        raise


def _inner(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from where our frames end; all of it if the program was never reached (a SyntaxError)."""
    last_of_ours = None
    each = frames
    while each is not None:
        if each.tb_frame.f_code.co_filename == __file__:
            last_of_ours = each
        each = each.tb_next
    return last_of_ours.tb_next if last_of_ours is not None else frames
