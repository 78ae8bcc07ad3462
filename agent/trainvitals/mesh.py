"""
Where this rank is among the others, in the trainer's own words: its coordinate on each axis of a mesh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainvitals.errors import BadSetting

MAX_TEXT = 200


def mesh_text(mesh: Any) -> str:
    """
    "dp=1/2 tp=0/4": coordinate and size by axis; axes of one rank are left out. Empty for a rank outside of the mesh.

    `mesh`: a torch DeviceMesh, a mapping of names to (coordinate, size), or None. Raises BadSetting.
    """
    axes = [] if mesh is None else list(_axes(mesh))
    for name, where, size in axes:
        if not (
            type(where) is type(size) is int and 0 <= where < size and str(name).isidentifier()
        ):
            raise BadSetting(
                f"attach(mesh=...): axis {name!r} at {where!r} of {size!r}; give a DeviceMesh, or axes as "
                '{"dp": (0, 2), "tp": (1, 4)}: coordinate and size'
            )
    return " ".join(f"{name}={where}/{size}" for name, where, size in axes if size > 1)[:MAX_TEXT]


def _axes(mesh: Any) -> Iterable[tuple[Any, Any, Any]]:
    if isinstance(mesh, Mapping):
        for name, place in mesh.items():
            pair = tuple(place) if isinstance(place, (tuple, list)) else (place,)
            yield (name, *pair) if len(pair) == 2 else (name, place, None)
        return
    names, shape = getattr(mesh, "mesh_dim_names", None), getattr(mesh, "shape", None)
    if shape is None or not hasattr(mesh, "get_coordinate"):
        yield type(mesh).__name__, None, None
        return
    where = mesh.get_coordinate()
    if where is None:  # this rank is none of the mesh's
        return
    names = names or [f"axis{number}" for number in range(len(shape))]
    yield from zip(names, where, shape, strict=True)
