"""
What `attach()` was given, checked: wrong arguments fail before the first step, with a sentence that says what to do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from trainvitals.contract import Contract
from trainvitals.contract_file import read_contract
from trainvitals.errors import BadSetting

_CONTRACT_BYTES = 512 << 10
"""What a frame's header has room for, beside a page of tensors and events."""
ON_FINDING_WORDS = ("log", "raise")


def check_models(model: Any) -> list[nn.Module]:
    """One model or several, each with parameters that exist; raises BadSetting otherwise."""
    models = [model] if isinstance(model, nn.Module) else _listed(model, nn.Module, "a model")
    for each in models:
        parameters = list(each.parameters())
        if not parameters:
            raise BadSetting(
                f"attach(model={type(each).__name__}): the model has no parameters; "
                "give the module that is trained, after its layers were made"
            )
        if any(torch.nn.parameter.is_lazy(parameter) for parameter in parameters):
            raise BadSetting(
                f"attach(model={type(each).__name__}): lazy parameters have no shape yet; "
                "run one forward pass, then attach"
            )
        # Frozen ones beside real ones may stay there: the module that torch.func runs over stacked parameters has such.
        empty = [parameter for parameter in parameters if parameter.is_meta]
        if len(empty) == len(parameters) or any(parameter.requires_grad for parameter in empty):
            raise BadSetting(
                f"attach(model={type(each).__name__}): parameters are on the meta device and hold nothing; "
                "attach after to_empty() and loading or initialising the weights"
            )
    return models


def check_optimizers(optimizer: Any) -> list[Optimizer]:
    """None, one optimizer or several; a wrapper that keeps the torch optimizer as `.optimizer` is opened."""
    if optimizer is None:
        return []
    opened = _open(optimizer)
    if isinstance(opened, Optimizer):
        return [opened]
    return _listed(optimizer, Optimizer, "an optimizer")


def check_replicas(replicas: Any) -> Callable[[torch.Tensor], Iterable[int]] | None:
    """None, or what can be asked of a tensor."""
    if replicas is not None and not callable(replicas):
        raise BadSetting(
            f"attach(replicas={replicas!r}): give a function that answers with the ranks that hold a tensor, or leave it out"
        )
    return replicas  # type: ignore[no-any-return]


def check_step(step: Any) -> int:
    """Steps already done: a whole number of at least 0."""
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise BadSetting(
            f"step={step!r}: must be the number of optimizer steps already done, 0 or more"
        )
    return step


def check_contract(contract: Any, file: str) -> Contract:
    """What is declared, in an object or a file; what an object leaves open, the file of the settings may say."""
    if isinstance(contract, (str, os.PathLike)):
        return _sendable(read_contract(contract))
    if contract is not None and not isinstance(contract, Contract):
        raise BadSetting(
            f"contract={contract!r}: must be a trainvitals.Contract or the path of its file"
        )
    below = read_contract(file) if file else Contract()
    return _sendable(contract.over(below) if contract is not None else below)


def _sendable(contract: Contract) -> Contract:
    try:
        size = len(json.dumps(contract.as_json(), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadSetting(f"contract: holds what can't be sent ({error})") from error
    if size > _CONTRACT_BYTES:
        raise BadSetting(
            f"contract: {size} bytes are too many to send, {_CONTRACT_BYTES} is the most; fold names with patterns"
        )
    return contract


def check_on_finding(on_finding: Any, to_folder: bool, world_size: int) -> Any:
    """A callable, "log" or "raise"; "raise" only where somebody judges, and where no other rank would hang."""
    if callable(on_finding):
        return on_finding
    if on_finding not in ON_FINDING_WORDS:
        raise BadSetting(f"on_finding={on_finding!r}: must be a callable, 'log' or 'raise'")
    if on_finding == "raise" and to_folder:
        raise BadSetting(
            "on_finding='raise': frames go to a folder, where nobody judges them; "
            "give monitor='http://host:port' or use on_finding='log'"
        )
    if on_finding == "raise" and world_size > 1:
        raise BadSetting(
            "on_finding='raise': with several ranks one that raises leaves the others waiting in a collective; "
            "use on_finding='log', or a callable that ends the job"
        )
    return on_finding


def _open(optimizer: Any) -> Any:
    """accelerate's and others' wrappers are no Optimizer but hold one."""
    inner = getattr(optimizer, "optimizer", None)
    return (
        inner
        if not isinstance(optimizer, Optimizer) and isinstance(inner, Optimizer)
        else optimizer
    )


def _listed(given: Any, wanted: type[Any], what: str) -> list[Any]:
    items = (
        list(given) if isinstance(given, Iterable) and not isinstance(given, (str, dict)) else None
    )
    items = [_open(item) if wanted is Optimizer else item for item in items or []]
    if not items or not all(isinstance(item, wanted) for item in items):
        raise BadSetting(
            f"attach() wants {what} ({wanted.__module__.partition('.')[0]}'s {wanted.__name__}) or a list of them; "
            f"got {type(given).__name__}"
        )
    return items
