"""
How findings are shown: what follows from one stands under it. Which explains which is first_cause.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def root_of(causes: Mapping[str, str], finding: str) -> str:
    """The first cause of a finding; itself if nothing explains it."""
    while finding in causes:
        finding = causes[finding]
    return finding


def folded(causes: Sequence[tuple[str, str]]) -> list[tuple[int, list[int]]]:
    """
    How findings are shown: the numbers of those on top, each with the numbers of all that follow from it.

    `causes`: per finding shown, its id and that of its cause; one whose cause is not shown is on top.
    """
    number = {finding: i for i, (finding, _) in enumerate(causes)}
    explained = {finding: cause for finding, cause in causes if cause in number}
    tops: dict[int, list[int]] = {
        i: [] for i, (one, _) in enumerate(causes) if one not in explained
    }
    for i, (finding, _) in enumerate(causes):
        if finding in explained:
            tops[number[root_of(explained, finding)]].append(i)
    return list(tops.items())
