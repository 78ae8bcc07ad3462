"""
A frame's header, checked: plain JSON data in, the agent's own `Header` dataclass out.

The classes of trainvitals.frame are the schema; pydantic validates them, and what types can't say (bounds, lengths,
names) is checked here. What depends on earlier frames of the rank is checked by the history. Unknown fields and unknown
kinds of events are a newer agent's and are left out; anything else that does not fit is a BadFrame, with a sentence for
its sender.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter, ValidationError

from trainvitals.contract import Contract
from trainvitals.errors import BadFrame, BadSetting
from trainvitals.frame import (
    SCHEMA_VERSION,
    CheckpointSeen,
    Event,
    Header,
    ModesSeen,
    OptimizersSeen,
    SlotChanged,
    TensorInfo,
    UnregisteredSeen,
)

MAX_TENSORS = 100_000
"""Tensors of one attempt; a step of so many takes 11 MB in the history."""
MAX_WORLD_SIZE = 1 << 17
MAX_STEP = 1 << 53
MAX_NAME = 200
MAX_FQN = 1_000
MAX_DIMS = 16
MAX_THRESHOLDS = 1_000
"""Changed by one contract."""

_HEADER = TypeAdapter(Header)
_EVENTS: TypeAdapter[list[Event]] = TypeAdapter(
    list[Annotated[Event, Field(discriminator="kind")]],
)
_EVENT_KINDS = {cls.kind for cls in get_args(Event)}
_CONTRACT_FIELDS = set(Contract.__dataclass_fields__)


class RunConflict(BadFrame):
    """Another process speaks as this rank of this attempt: two jobs under one run name."""


def validate_header(data: Mapping[str, Any]) -> Header:
    """
    The header as `Header`; cost 20 us, and 3 us per tensor row.

    Raises:
        BadFrame: with a sentence that names the field, what was given and what is allowed.
    """
    version = data.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise BadFrame(
            f"schema version {_short(version)}; this monitor reads schema {SCHEMA_VERSION}"
        )
    events = data.get("events", [])
    if not isinstance(events, list):
        raise BadFrame("events must be a list")
    try:
        header = _HEADER.validate_python({**data, "events": []})
        known = _EVENTS.validate_python([event for event in events if not _is_newer(event)])
    except ValidationError as error:
        raise BadFrame(_sentence(error)) from error
    header = replace(header, events=known)
    for fault in _faults(header):
        raise BadFrame(fault)
    return header


def contract_of(header: Header) -> Contract:
    """The contract that the header declares. Raises BadFrame if it cannot be meant."""
    given = {key: value for key, value in header.contract.items() if key in _CONTRACT_FIELDS}
    try:
        contract: Contract = _CONTRACT.validate_python(given)
    except (ValidationError, BadSetting) as error:
        text = _sentence(error) if isinstance(error, ValidationError) else str(error)
        raise BadFrame(f"contract: {text}") from error
    return contract


_CONTRACT = TypeAdapter(Contract)


def _is_newer(event: Any) -> bool:
    kind = event.get("kind") if isinstance(event, dict) else None
    return isinstance(kind, str) and kind not in _EVENT_KINDS


def _faults(header: Header) -> Iterator[str]:
    """Sentences about what is out of bounds; the first one refuses the frame."""
    yield from _name_faults(header)
    yield from _number_faults(header)
    for info in header.tensors:
        yield from _tensor_faults(info)
    for event in header.events:
        yield from _event_faults(event)
    yield from _contract_faults(contract_of(header))


def _contract_faults(contract: Contract) -> Iterator[str]:
    lock = contract.lock
    names = list(lock.tensors) if lock else []
    for text in (*contract.frozen, *contract.dtypes, *contract.ignore, *contract.off, *names):
        if not text or len(text) > MAX_FQN or not text.isprintable():
            yield f"contract: name {_short(text)}: must be 1 to {MAX_FQN} printable characters"
    for one in lock.tensors.values() if lock else ():
        if not _is_shape(list(one.shape)) or len(one.dtype) > MAX_NAME:
            yield f"contract: lock: {_short(one)}: no dtype and shape of a tensor"
    tables = contract.thresholds.values()
    values = [value for table in tables for row in table.values() for value in row.values()]
    if len(values) > MAX_THRESHOLDS or not all(map(math.isfinite, values)):
        yield f"contract: thresholds must be at most {MAX_THRESHOLDS} finite numbers"


def _name_faults(header: Header) -> Iterator[str]:
    for field in ("run", "attempt", "process"):
        text = getattr(header, field)
        if not text or len(text) > MAX_NAME or not text.isprintable():
            yield f"{field}={_short(text)}: must be 1 to {MAX_NAME} printable characters"
    reference = header.reference
    if len(reference) > MAX_NAME or not reference.isprintable():
        yield f"reference={_short(reference)}: must be up to {MAX_NAME} printable characters"
    for text in (header.agent_version, header.mesh):
        if len(text) > MAX_FQN:
            yield f"{_short(text)} is longer than {MAX_FQN} characters"
    for text in header.scalars:
        if len(text) > MAX_NAME:
            yield f"scalar name {_short(text)} is longer than {MAX_NAME} characters"
    for key, value in header.about.items():
        if len(key) > MAX_NAME or len(value) > 4 * MAX_FQN:
            yield f"about[{_short(key)}] is longer than {4 * MAX_FQN} characters"


def _number_faults(header: Header) -> Iterator[str]:
    if not 1 <= header.world_size <= MAX_WORLD_SIZE:
        yield f"world_size={header.world_size}: must be 1 to {MAX_WORLD_SIZE}"
    if not 0 <= header.rank < header.world_size:
        yield f"rank={header.rank}: must be 0 to world_size - 1 = {header.world_size - 1}"
    for field in ("seq", "first_step", "base_step"):
        if not 0 <= getattr(header, field) <= MAX_STEP:
            yield f"{field}={getattr(header, field)}: must be 0 to 2**53"
    if not -1 <= header.complete_through <= MAX_STEP:
        yield f"complete_through={header.complete_through}: must be -1 to 2**53"
    if abs(header.step_offset or 0) > MAX_STEP:
        yield f"step_offset={header.step_offset}: must be within 2**53"
    for field in ("sent_at", "started_at"):
        if not (math.isfinite(getattr(header, field)) and getattr(header, field) >= 0):
            yield f"{field}={getattr(header, field)}: must be Unix seconds"
    for what, lost in header.dropped.items():
        if lost < 0 or lost > MAX_STEP or len(what) > MAX_NAME:
            yield f"dropped[{_short(what)}]={lost}: must be a count"


def _tensor_faults(info: TensorInfo) -> Iterator[str]:
    if not 0 <= info.index < MAX_TENSORS:
        yield f"tensor index {info.index}: must be 0 to {MAX_TENSORS - 1}"
    if not -1 <= info.tied_to < MAX_TENSORS:
        yield f"tensor {_short(info.fqn)}: tied_to={info.tied_to} must be -1 to {MAX_TENSORS - 1}"
    for text in (info.fqn, info.raw_fqn):
        if not text or len(text) > MAX_FQN or not text.isprintable():
            yield f"tensor name {_short(text)}: must be 1 to {MAX_FQN} printable characters"
    for text in (info.dtype, info.module, info.replica_group):
        if len(text) > MAX_FQN:
            yield f"tensor {_short(info.fqn)}: {_short(text)} is longer than {MAX_FQN} characters"
    for field in ("shape", "offsets", "sizes"):
        if not _is_shape(getattr(info, field)):
            yield f"tensor {_short(info.fqn)}: {field} must be up to {MAX_DIMS} counts"
    if len(info.offsets) != len(info.sizes):
        yield f"tensor {_short(info.fqn)}: offsets and sizes differ in length"


def _event_faults(event: Event) -> Iterator[str]:
    if not 0 <= event.step <= MAX_STEP:
        yield f"event {event.kind!r}: step={event.step} must be 0 to 2**53"
    yield from _count_faults(event.kind, event)
    if isinstance(event, SlotChanged):
        for index in (event.tensor, *event.untied):
            if not 0 <= index < MAX_TENSORS:
                yield f"event 'slot': tensor {index} is no index"
    if isinstance(event, CheckpointSeen):
        count = len(event.keys)
        if not len(event.tensors) == len(event.dtypes) == len(event.shapes) == count:
            yield "event 'checkpoint': tensors, dtypes and shapes must be as long as keys"
        if any(not -1 <= index < MAX_TENSORS for index in event.tensors):
            yield "event 'checkpoint': tensors must be indices, or -1"
        if not all(_is_shape(shape) for shape in event.shapes):
            yield f"event 'checkpoint': a shape must be up to {MAX_DIMS} counts"
    if isinstance(event, OptimizersSeen):
        if len(event.group_optimizer) != len(event.group_tensors):
            yield "event 'optimizers': group_optimizer and group_tensors differ in length"
        if any(not 0 <= number < len(event.optimizers) for number in event.group_optimizer):
            yield "event 'optimizers': group_optimizer must be indices of optimizers"
        if any(not 0 <= i < MAX_TENSORS for group in event.group_tensors for i in group):
            yield "event 'optimizers': group_tensors must be tensor indices"
        for parameter in event.foreign:
            yield from _count_faults(event.kind, parameter)
            if not _is_shape(parameter.shape):
                yield f"event 'optimizers': a shape must be up to {MAX_DIMS} counts"
    if isinstance(event, ModesSeen):
        if any(not 0 <= index < MAX_TENSORS for index in [*event.tensors, *event.untracked]):
            yield "event 'modes': tensors must be tensor indices"
        if not 0 <= event.since <= event.step:
            yield "event 'modes': since must be a step up to its own"
    if isinstance(event, UnregisteredSeen):
        if any(not one.fqn or len(one.fqn) > MAX_FQN for one in event.tensors):
            yield f"event 'unregistered': fqn must be 1 to {MAX_FQN} characters"
        if not all(_is_shape(one.shape) for one in event.tensors):
            yield f"event 'unregistered': a shape must be up to {MAX_DIMS} counts"
        for one in event.tensors:
            yield from _count_faults(event.kind, one)


def _count_faults(kind: str, said: object) -> Iterator[str]:
    """Whole numbers of an event, or of a part of one, become columns of int64."""
    for field, value in vars(said).items():
        if isinstance(value, int) and not -1 <= value <= MAX_STEP:
            yield f"event {kind!r}: {field}={value} must be -1 to 2**53"


def _is_shape(sizes: list[int]) -> bool:
    return len(sizes) <= MAX_DIMS and all(0 <= size <= MAX_STEP for size in sizes)


def _sentence(error: ValidationError) -> str:
    """The first of pydantic's complaints, as one sentence."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "header"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'][:200]}; given: {_short(first.get('input'))}{more}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
