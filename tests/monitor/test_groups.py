"""
A group is named by what its subjects have in common.
"""

from __future__ import annotations

import pytest

from trainvitals_monitor.groups import common_pattern, covers


@pytest.mark.parametrize(
    ("patterns", "common"),
    [
        (["layers.*.w"], "layers.*.w"),
        (["layers.*.w", "layers.*.w"], "layers.*.w"),
        (["layers.*.a.w", "layers.*.b.w"], "layers.*.w"),
        (["layers.*.a.w", "layers.*.a.v"], "layers.*.a.*"),
        (["bn1.weight", "bn2.weight"], "*.weight"),
        (["bn1.weight", "fc.bias"], "*"),
        (["a.b", "a.b.c"], "a.b.*"),
        (["a", "a.b"], "a.*"),
    ],
)
def test_the_common_pattern(patterns: list[str], common: str) -> None:
    """Whole parts that all begin or end with are kept; what lies between is one star."""
    assert common_pattern(patterns) == common


def test_a_common_pattern_covers_what_it_was_made_of() -> None:
    """Each pattern belongs to the group that it helped to name, unless it is the shared head itself."""
    patterns = ["layers.*.a.w", "layers.*.b.c.w", "layers.*.w2.w"]
    assert all(covers(common_pattern(patterns), pattern) for pattern in patterns)
    assert not covers("layers.*.w", "head.w")
