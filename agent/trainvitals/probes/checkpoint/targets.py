"""
Which functions are watched for saves and loads, and what a call of each one means.

Patched are the functions *below* the public names, because libraries bind those at import (transformers has its own
`save_file`). Read in torch 2.13 (the same names are there from 2.6 on) and safetensors 0.8 (before 0.7: `_flatten`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Literal

from trainvitals.probes.checkpoint.patches import Around
from trainvitals.probes.checkpoint.watch import Call, Target, Watch


def _torch_save(watch: Watch) -> Around:
    """torch.serialization._save and _legacy_save: (obj, file, ...), called by torch.save with the file open."""

    def around(original: Any, args: Any, kwargs: Any) -> Any:
        if watch.is_silent or not args:
            return original(*args, **kwargs)
        call = Call(op="save", api="torch.save", handed=args[0], path=_path_of_torch_save())
        return watch.watched(call, lambda: original(*args, **kwargs))

    return around


def _path_of_torch_save() -> str:
    """The argument `f` of the torch.save that called: neither the zip writer nor a buffer knows its own path."""
    frame = sys._getframe(3)  # this function, `around`, the patch's wrapper, torch.save
    if frame.f_code.co_name != "save":
        return ""
    return _as_path(frame.f_locals.get("f"))


def _flattened(watch: Watch) -> Around:
    """safetensors.torch._flatten*: (tensors, ...), called by save and save_file just before they serialize."""

    def around(original: Any, args: Any, kwargs: Any) -> Any:
        flat = original(*args, **kwargs)
        if not watch.is_silent and args:
            watch.note(args[0])
        return flat

    return around


def _safetensors_save(api: str) -> Callable[[Watch], Around]:
    """safetensors.torch.serialize and serialize_file: (flat, [filename], metadata=); the flat dict holds pointers."""

    def make(watch: Watch) -> Around:
        def around(original: Any, args: Any, kwargs: Any) -> Any:
            handed = watch.noted
            if watch.is_silent or handed is None:
                return original(*args, **kwargs)
            path = args[1] if len(args) > 1 and api.endswith("save_file") else None
            call = Call(op="save", api=api, handed=handed, path=_as_path(path))
            return watch.watched(call, lambda: original(*args, **kwargs))

        return around

    return make


def _dcp(op: Literal["save", "load"]) -> Callable[[Watch], Around]:
    """DCP's _save_state_dict and _load_state_dict: (state_dict, storage, ...), below all of its public functions."""
    api, storage_name = (
        f"torch.distributed.checkpoint.{op}",
        f"storage_{'writer' if op == 'save' else 'reader'}",
    )

    def make(watch: Watch) -> Around:
        def around(original: Any, args: Any, kwargs: Any) -> Any:
            state_dict = args[0] if args else kwargs.get("state_dict")
            storage = args[1] if len(args) > 1 else kwargs.get(storage_name)
            call = Call(op=op, api=api, handed=state_dict, path=_storage_path(storage))
            return watch.watched(call, lambda: original(*args, **kwargs))

        return around

    return make


def _dcp_async(watch: Watch) -> Around:
    """
    DCP's _stateful_to_state_dict, when async_save calls it: the last moment before it stages a copy.

    The upload itself runs in another thread or process, on the copy: too late to compare it with the live state.
    """

    def around(original: Any, args: Any, kwargs: Any) -> Any:
        resolved = original(*args, **kwargs)
        caller = sys._getframe(2)  # this function, the patch's wrapper, async_save
        if caller.f_code.co_name == "async_save" and not watch.is_silent:
            path = caller.f_locals.get("checkpoint_id")
            path = _as_path(path) or _storage_path(caller.f_locals.get("storage_writer"))
            api = "torch.distributed.checkpoint.async_save"
            watch.watched(Call(op="save", api=api, handed=resolved, path=path), lambda: None)
        return resolved

    return around


def _module_load(watch: Watch) -> Around:
    """nn.Module.load_state_dict: (self, state_dict, strict, assign); overrides of subclasses stay, and call it."""

    def around(original: Any, args: Any, kwargs: Any) -> Any:
        if not args:
            return original(*args, **kwargs)
        handed = args[1] if len(args) > 1 else kwargs.get("state_dict")
        assign = bool(args[3] if len(args) > 3 else kwargs.get("assign", False))
        call = Call(
            op="load", api="Module.load_state_dict", handed=handed, module=args[0], assign=assign
        )
        return watch.watched(call, lambda: original(*args, **kwargs))

    return around


def _storage_path(storage: Any) -> str:
    return _as_path(getattr(storage, "checkpoint_id", None)) or _as_path(
        getattr(storage, "path", None)
    )


def _as_path(given: Any) -> str:
    if isinstance(given, (str, os.PathLike)):
        return str(os.fspath(given))
    name = getattr(given, "name", "")  # an open file
    return name if isinstance(name, str) else ""


_SAVER = "torch.distributed.checkpoint.state_dict_saver"
_LOADER = "torch.distributed.checkpoint.state_dict_loader"
_SAFE = "safetensors.torch"
TARGETS = (
    Target("torch.serialization", "", "_save", "torch.save", _torch_save),
    Target("torch.serialization", "", "_legacy_save", "torch.save (legacy)", _torch_save),
    Target("torch.nn.modules.module", "Module", "load_state_dict", "load_state_dict", _module_load),
    Target(_SAFE, "", "_flatten_as_ptr", "safetensors", _flattened),
    Target(_SAFE, "", "_flatten", "safetensors", _flattened),
    Target(_SAFE, "", "serialize", "safetensors save", _safetensors_save("safetensors.torch.save")),
    Target(
        _SAFE, "", "serialize_file", "save_file", _safetensors_save("safetensors.torch.save_file")
    ),
    Target(_SAVER, "", "_save_state_dict", "dcp.save", _dcp("save")),
    Target(_SAVER, "", "_stateful_to_state_dict", "dcp.async_save", _dcp_async),
    Target(_LOADER, "", "_load_state_dict", "dcp.load", _dcp("load")),
)

WATCH = Watch(TARGETS)


def install_watch() -> None:
    """Hold the process-wide watch, so that loads before attach are remembered; `WATCH.release()` ends it."""
    WATCH.hold()
