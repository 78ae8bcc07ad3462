"""
The cases of a corpus of incidents, by what they say of themselves; nothing of them is imported here.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT

CORPUS = ROOT / "tests" / "incidents" / "corpus"
FURTHER = ROOT / "tests" / "incidents" / "further"
BLIND = ROOT / "tests" / "incidents" / "blind"


@dataclass(frozen=True)
class Case:
    """A module of the corpus, by what its META says; nothing of it is imported here."""

    name: str
    id: str
    family: str
    onset: int
    earliest: int
    world_size: int
    is_healthy: bool


def read_corpus(folder: Path, wanted: Sequence[str]) -> list[Case]:
    """The cases of a corpus, faulty ones first; `wanted`: ids or beginnings of names, none for all."""
    files = [*sorted(folder.glob("case_*.py")), *sorted(folder.glob("healthy_*.py"))]
    cases = [_read_case(path) for path in files]
    return [
        case
        for case in cases
        if not wanted or any(case.id == one or case.name.startswith(one) for one in wanted)
    ]


def _read_case(path: Path) -> Case:
    meta = _meta(path)
    healthy = path.name.startswith("healthy_")
    onset = 0 if healthy else int(meta["bug_step"])
    return Case(
        name=path.stem,
        id=str(meta["id"]),
        family=str(meta["family"]),
        onset=onset,
        earliest=int(meta.get("earliest", onset)),
        world_size=int(meta.get("world_size", 1)),
        is_healthy=healthy,
    )


def _meta(path: Path) -> dict[str, Any]:
    """`META = dict(...)` of a case, literals only."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "META":
            assert isinstance(node.value, (ast.Call, ast.Dict)), path
            if isinstance(node.value, ast.Dict):
                return dict(ast.literal_eval(node.value))
            pairs = [(word.arg, _literal(word.value)) for word in node.value.keywords]
            return {name: value for name, value in pairs if name is not None}
    raise ValueError(f"{path} has no META")


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
