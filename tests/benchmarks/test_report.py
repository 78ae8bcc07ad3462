"""
What benchmarks report is put where it belongs, with its spread.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import machine, quartiles, read_part, spread, table, write_part


def test_a_part_is_written_in_its_place_and_all_else_stays(tmp_path: Path) -> None:
    """Parts keep their order on the page; a new one comes last."""
    page = tmp_path / "benchmarks.md"
    assert read_part("first", page) == ""
    write_part("first", "one\n", page)
    write_part("second", "two", page)
    page.write_text(f"{page.read_text()}\nBy hand.\n")
    write_part("first", "## First\n\nmore", page)
    assert read_part("first", page) == "## First\n\nmore"
    assert read_part("second", page) == "two"
    assert page.read_text() == (
        "# Benchmarks\n\n<!-- first: begin -->\n## First\n\nmore\n<!-- first: end -->\n\n"
        "<!-- second: begin -->\ntwo\n<!-- second: end -->\n\nBy hand.\n"
    )


def test_figures_come_with_their_quartiles() -> None:
    """Of few values the lowest and the highest."""
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([2.0, 1.0]) == (1.0, 1.5, 2.0)
    assert spread([1.0, 2.0, 3.0]) == "2.00 (1.50 to 2.50)"
    assert spread([0.01, 0.02, 0.03], "+.1%") == "+2.0% (+1.5% to +2.5%)"


def test_a_table_is_markdown() -> None:
    """Names to the left, figures to the right."""
    assert table(["arm", "ms"], [["base", "1"]]) == "| arm | ms |\n| --- | ---: |\n| base | 1 |"


def test_the_machine_is_named_with_versions() -> None:
    """Of the packages asked for, and of this one."""
    line = machine("numpy")
    assert "numpy " in line
    assert "trainvitals " in line
    assert "cores" in line
