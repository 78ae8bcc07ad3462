"""
Which frames of a rank have been received, by number: what comes again is answered and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Received:
    """
    Everything below `floor`, and `above`: numbers, not frames, so that old frames can be forgotten.

    `digested`: the rank's first digests have come.
    """

    floor: int = 0
    above: set[int] = field(default_factory=set)
    digested: bool = False

    def has(self, seq: int) -> bool:
        """Whether this frame was received, or is from before what is still remembered."""
        return seq < self.floor or seq in self.above

    def raise_floor(self, floor: int) -> None:
        """Frames below have been forgotten, or never came and would be too late now."""
        self.floor = max(self.floor, floor)
        self.above = {seq for seq in self.above if seq >= self.floor}
