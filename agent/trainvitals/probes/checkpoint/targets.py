"""
Which functions are watched for saves and loads, and what a call of each one means.

Patched are the functions *below* the public names, because libraries bind those at import (transformers has its own
`save_file`). Read in torch 2.13 and safetensors 0.8 (older ones: `_flatten`). A name that another version does not have
is left alone and listed by `Watch.absent`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from trainvitals.patches import Around
from trainvitals.probes.checkpoint.watch import Call, Target, Watch

Describe = Callable[[Watch, Any, Any, FrameType], Call | None]
"""(watch, args, kwargs, calling frame) -> what it is; None: this is no save or load of its own."""


def _watching(describe: Describe) -> Callable[[Watch], Around]:
    """A patch that runs the function as a watched call."""

    def make(watch: Watch) -> Around:
        def around(original: Any, args: Any, kwargs: Any) -> Any:
            caller = sys._getframe(2)  # this function, the patch's wrapper, the caller
            return watch.watched(
                lambda: describe(watch, args, kwargs, caller), lambda: original(*args, **kwargs)
            )

        return around

    return make


def _torch_save(_watch: Watch, args: Any, kwargs: Any, caller: FrameType) -> Call:
    """
    torch.serialization._save and _legacy_save: (obj, file, ...), called by torch.save with the file open.

    The path is torch.save's argument `f`: neither the zip writer nor a buffer knows its own.
    """
    path = caller.f_locals.get("f") if caller.f_code.co_name == "save" else None
    handed = args[0] if args else kwargs.get("obj")
    return Call(op="save", api="torch.save", handed=handed, path=_as_path(path))


def _flattened(watch: Watch) -> Around:
    """safetensors.torch._flatten*: (tensors, ...), called by save and save_file just before they serialize."""

    def around(original: Any, args: Any, kwargs: Any) -> Any:
        flat = original(*args, **kwargs)
        if not watch.is_silent:
            watch.note(flat, args[0] if args else kwargs.get("tensors"))
        return flat

    return around


def _safetensors_save(watch: Watch, args: Any, _kwargs: Any, _caller: FrameType) -> Call | None:
    """safetensors.torch.serialize: (flat, metadata=); the flat dict holds pointers or bytes."""
    handed = watch.noted(args[0]) if args else None
    if handed is None:
        return None
    return Call(op="save", api="safetensors.torch.save", handed=handed)


def _safetensors_save_file(
    watch: Watch, args: Any, _kwargs: Any, _caller: FrameType
) -> Call | None:
    """safetensors.torch.serialize_file: (flat, filename, metadata=)."""
    handed = watch.noted(args[0]) if args else None
    if handed is None:
        return None
    path = _as_path(args[1]) if len(args) > 1 else ""
    return Call(op="save", api="safetensors.torch.save_file", handed=handed, path=path)


def _dcp_save(_watch: Watch, args: Any, kwargs: Any, _caller: FrameType) -> Call:
    """DCP's _save_state_dict: (state_dict, storage_writer, ...), below save and save_state_dict."""
    handed = args[0] if args else kwargs.get("state_dict")
    path = _storage_path(args[1] if len(args) > 1 else kwargs.get("storage_writer"))
    return Call(op="save", api="torch.distributed.checkpoint.save", handed=handed, path=path)


def _dcp_load(_watch: Watch, args: Any, kwargs: Any, _caller: FrameType) -> Call:
    """DCP's _load_state_dict: (state_dict, storage_reader, ...), below load and load_state_dict."""
    handed = args[0] if args else kwargs.get("state_dict")
    path = _storage_path(args[1] if len(args) > 1 else kwargs.get("storage_reader"))
    return Call(op="load", api="torch.distributed.checkpoint.load", handed=handed, path=path)


def _dcp_async_save(watch: Watch) -> Around:
    """
    DCP's _stateful_to_state_dict, when async_save calls it: the last moment before it stages a copy.

    The upload itself runs in another thread or process, on the copy: too late to compare it with the live state.
    """

    def around(original: Any, args: Any, kwargs: Any) -> Any:
        resolved = original(*args, **kwargs)
        caller = sys._getframe(2)
        if caller.f_code.co_name == "async_save":
            watch.watched(lambda: _async_call(resolved, caller), lambda: None)
        return resolved

    return around


def _async_call(resolved: Any, caller: FrameType) -> Call:
    given = caller.f_locals
    path = _as_path(given.get("checkpoint_id")) or _storage_path(given.get("storage_writer"))
    api = "torch.distributed.checkpoint.async_save"
    return Call(op="save", api=api, handed=resolved, path=path)


def _module_load(_watch: Watch, args: Any, kwargs: Any, _caller: FrameType) -> Call:
    """nn.Module.load_state_dict: (self, state_dict, strict, assign); overrides of subclasses stay, and call it."""
    named = {**dict(zip(("self", "state_dict", "strict", "assign"), args, strict=False)), **kwargs}
    return Call(
        op="load",
        api="Module.load_state_dict",
        handed=named.get("state_dict"),
        module=named["self"],
        assign=bool(named.get("assign", False)),
    )


def _storage_path(storage: Any) -> str:
    return _as_path(getattr(storage, "checkpoint_id", None)) or _as_path(
        getattr(storage, "path", None)
    )


def _as_path(given: Any) -> str:
    if isinstance(given, (str, os.PathLike)):
        return str(os.fspath(given))
    name = getattr(given, "name", "")  # an open file
    return name if isinstance(name, str) else ""


_SERIALIZATION = "torch.serialization"
_SAFE = "safetensors.torch"
_SAVER = "torch.distributed.checkpoint.state_dict_saver"
_LOADER = "torch.distributed.checkpoint.state_dict_loader"
TARGETS = (
    Target(_SERIALIZATION, "", "_save", "torch.save", _watching(_torch_save)),
    Target(_SERIALIZATION, "", "_legacy_save", "torch.save, old format", _watching(_torch_save)),
    Target("torch.nn.modules.module", "Module", "load_state_dict", "load", _watching(_module_load)),
    Target(_SAFE, "", "_flatten_as_ptr", "safetensors", _flattened),
    Target(_SAFE, "", "_flatten", "safetensors", _flattened),
    Target(_SAFE, "", "serialize", "safetensors save", _watching(_safetensors_save)),
    Target(_SAFE, "", "serialize_file", "save_file", _watching(_safetensors_save_file)),
    Target(_SAVER, "", "_save_state_dict", "dcp.save", _watching(_dcp_save)),
    Target(_SAVER, "", "_stateful_to_state_dict", "dcp.async_save", _dcp_async_save),
    Target(_LOADER, "", "_load_state_dict", "dcp.load", _watching(_dcp_load)),
)

WATCH = Watch(TARGETS)
