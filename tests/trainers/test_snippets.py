"""
The snippets of docs/integrations.md, run by the libraries that they are for, and what came of it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.trainers.running import PROGRAMS, needs, run_program
from trainvitals.integrations import INTEGRATIONS

DOCS = Path(__file__).parents[2] / "docs" / "integrations.md"
SNIPPET = re.compile(r"<!-- runs: (\w+) -->\n```python\n(.*?)```", re.DOTALL)
SNIPPETS = dict(SNIPPET.findall(DOCS.read_text()))


def test_every_integration_is_listed_and_has_a_snippet() -> None:
    """A file in the folder, a name in the tuple, a section that is run: one for each."""
    folder = Path(__file__).parents[2] / "agent" / "trainvitals" / "integrations"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "naming"}
    assert files == set(INTEGRATIONS) == set(SNIPPETS)


@pytest.mark.trainers
@pytest.mark.parametrize("name", INTEGRATIONS)
def test_a_snippet_watches_its_trainer(name: str, tmp_path: Path) -> None:
    """Every step is seen, losses are told with the trainer's step numbers, and nothing is found."""
    needs(name)
    prelude = (PROGRAMS / f"{name}_prelude.py").read_text()
    (tmp_path / "program.py").write_text(prelude + SNIPPETS[name])
    ran = run_program(tmp_path / "program.py", folder=tmp_path)
    assert len(ran.steps) >= 16
    assert ran.steps == list(range(1, len(ran.steps) + 1))
    assert ran.num_losses
    assert ran.found == []
