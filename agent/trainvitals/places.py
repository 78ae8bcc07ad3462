"""
Where parameters and buffers hang: a walk over the models' modules that finds every place, tied ones included.

A place is the dict of a module that holds a tensor, and the key in it. Names are made here: canonical ones that are
unique over all attached models, and the raw ones as the modules have them today.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from torch import nn

from trainvitals.fqn import canonical_fqns


@dataclass(frozen=True)
class Place:
    """
    `owner[key]` is the tensor, unless the `__dict__` of the module itself, `home()`, has the key too: then attribute
    access, and so the forward pass, sees that one (`object.__setattr__` on a buffer's name, as in torchtitan #1222's
    family). `home` is a weak reference: whoever drops the model is rid of it. `root`: number of the model.
    """

    fqn: str
    raw_fqn: str
    kind: Literal["param", "buffer"]
    owner: Mapping[str, Any]
    home: Callable[[], nn.Module | None]
    key: str
    module: str
    persistent: bool
    root: int

    def emptied(self) -> Place:
        """The same place, with nothing there and no reference to what was."""
        return replace(self, owner={}, home=lambda: None)

    def names(self) -> tuple[object, ...]:
        """What is told of it beside the canonical name."""
        return self.raw_fqn, self.kind, self.persistent, self.module


class Root:
    """
    One attached model, held weakly. A container that was only made for the call is gone at once: what is left of it
    are those of its modules that somebody else holds, under the names that they had in it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Callable[[], nn.Module | None] = weakref.ref(model)
        self.name = _class_name(_unwrapped(model))
        self.prefix = ""
        """What tells its tensors from another model's, once that was needed."""
        self._parts: list[tuple[str, Callable[[], nn.Module | None]]] = []

    def remember_parts(self) -> None:
        """From now on the parts are known when the model itself is gone; a weak reference a module."""
        model = self.model()
        if model is not None:
            parts = _modules(model, "")
            self._parts = [(prefix, weakref.ref(module)) for prefix, module in parts]

    def parts(self) -> list[tuple[str, nn.Module]]:
        """Prefix and module: the model itself, else the outermost of its modules that are alive."""
        model = self.model()
        if model is not None:
            return [("", model)]
        outermost: list[tuple[str, nn.Module]] = []
        for prefix, reference in self._parts:
            module = reference()
            if module is not None and not any(prefix.startswith(above) for above, _ in outermost):
                outermost.append((prefix, module))
        return outermost

    def has_place_for(self, raw_fqn: str) -> bool:
        """Whether what is left of it is, or is around, the module that had this tensor."""
        return any(raw_fqn.startswith(prefix) for prefix, _ in self.parts())


_Found = tuple[str, nn.Module, Literal["param", "buffer"], Mapping[str, Any], str]


def find_places(models: Sequence[nn.Module]) -> list[Place]:
    """
    Every place of a tensor, in registration order; a model that is part of another one is not walked twice.

    Names get the model's class (or its number) in front only when two models would share one: a GAN's generator and
    discriminator do, an encoder and a decoder with different names don't. Cost: some us a tensor.
    """
    return find_in([Root(model) for model in roots(models)])


def find_in(models: Sequence[Root], before: list[Place] | None = None) -> list[Place]:
    """As `find_places`, in what is left of these models; `before` itself if that is what is found again, at 1 us a tensor."""
    found = [
        [entry for prefix, module in root.parts() for entry in _tensors(module, prefix)]
        for root in models
    ]
    if before is not None and _are_found_again(before, found):
        return before
    names = [_canonical(tuple(raw for raw, *_ in one)) for one in found]
    together = [name for one in names for name in one]
    is_told_apart = any(
        root.prefix for root in models
    )  # and stays so when only one of them is left
    if is_told_apart or len(set(together)) < len(together):
        for root, prefix in zip(models, _prefixes([root.name for root in models]), strict=True):
            root.prefix = root.prefix or prefix
        names = [
            [f"{root.prefix}.{name}" for name in one]
            for root, one in zip(models, names, strict=True)
        ]
    return [
        _place(number, fqn, *entry)
        for number, (one, fqns) in enumerate(zip(found, names, strict=True))
        for fqn, entry in zip(fqns, one, strict=True)
    ]


def _are_found_again(places: list[Place], found: list[list[_Found]]) -> bool:
    if len(places) != sum(map(len, found)):
        return False
    known = iter(places)
    return all(
        place.raw_fqn == raw_fqn
        and place.owner is owner
        and place.key == key
        and place.home() is module
        and place.root == number
        and place.persistent == _is_persistent(module, kind, key)
        for number, one in enumerate(found)
        for (raw_fqn, module, kind, owner, key), place in zip(one, known, strict=False)
    )


@lru_cache(maxsize=8)
def _canonical(raw_fqns: tuple[str, ...]) -> list[str]:
    """Kept from walk to walk: names seldom change, and are half of a walk's cost."""
    return canonical_fqns(raw_fqns)


def roots(models: Sequence[nn.Module]) -> list[nn.Module]:
    """The models that are not a part of another of them (a DDP wrapper and what it wraps: the wrapper)."""
    chosen: list[nn.Module] = []
    for model in models:
        others = [other for other in models if other is not model]
        inside = any(part is model for other in others for part in other.modules())
        if not inside and not any(model is other for other in chosen):
            chosen.append(model)
    return chosen


def _tensors(top: nn.Module, above: str) -> Iterator[_Found]:
    for prefix, module in _modules(top, above):
        for kind, owner in (("param", module._parameters), ("buffer", module._buffers)):
            # ScriptModules hand out wrappers that make new Python objects at every look.
            held = owner if isinstance(owner, dict) else dict(owner.items())
            for key, tensor in held.items():
                if tensor is not None:
                    yield prefix + key, module, kind, held, key  # type: ignore[misc]


def _modules(top: nn.Module, above: str) -> list[tuple[str, nn.Module]]:
    """As named_modules(remove_duplicate=False): a shared module under each of its names; but safe on a cycle."""
    found: list[tuple[str, nn.Module]] = []
    path: set[int] = set()

    def visit(module: nn.Module, prefix: str) -> None:
        found.append((prefix, module))
        path.add(id(module))
        for name, child in module._modules.items():
            if child is not None and id(child) not in path:
                visit(child, f"{prefix}{name}.")
        path.discard(id(module))

    visit(top, above)
    return found


def _place(
    root: int,
    fqn: str,
    raw_fqn: str,
    module: nn.Module,
    kind: Literal["param", "buffer"],
    owner: Mapping[str, Any],
    key: str,
) -> Place:
    persistent = _is_persistent(module, kind, key)
    home = weakref.ref(module)
    return Place(fqn, raw_fqn, kind, owner, home, key, _class_name(module), persistent, root)


def _is_persistent(module: nn.Module, kind: str, key: str) -> bool:
    return kind == "param" or key not in module._non_persistent_buffers_set


def _class_name(module: nn.Module) -> str:
    """The user's class: fully_shard makes `FSDPLinear` of `Linear`, a parametrization `ParametrizedLinear`."""
    made = type(module)
    for added in ("FSDP", "Parametrized"):
        bases = [base.__name__ for base in made.__mro__]
        if made.__name__.startswith(added) and made.__name__.removeprefix(added) in bases:
            return made.__name__.removeprefix(added)
    return made.__name__


def _prefixes(classes: list[str]) -> list[str]:
    if len(set(classes)) == len(classes):
        return classes
    # No dot before the number: patterns star bare numbers, and would group the models' tensors together.
    return [f"model{number}" for number in range(len(classes))]


def _unwrapped(model: nn.Module) -> nn.Module:
    """What torch.compile, DDP or FSDP1 wrap."""
    for name in ("_orig_mod", "module", "_fsdp_wrapped_module"):
        inner = model._modules.get(name)
        if inner is not None and len(model._modules) == 1:
            return _unwrapped(inner)
    return model
