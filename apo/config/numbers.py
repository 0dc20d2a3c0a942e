"""Kinds of numbers, for the signatures that take them from the config: `rows: Rows`. `apo.config.validation` holds the
config against them.

An upper limit is where a number stops making sense, so that a slip of the hand neither hangs nor overflows.
"""

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """From low to high; `above` leaves out low itself, `below` high."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        return (
            self.low <= value <= self.high
            and not (self.above and value == self.low)
            and not (self.below and value == self.high)
        )


@dataclass(frozen=True)
class Null:
    """What leaving a setting out means."""

    means: str


class Filled:
    """Of a list or a text: not empty."""


Count = Annotated[int, Range(1, 10**9)]
Whole = Annotated[int, Range(0, 10**9)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Size = Annotated[int, Range(1, 2**14)]  # what is in memory at once: videos, pixels of a side, frames, tokens
Rows = Annotated[
    int, Range(1, 1000)
]  # of a window; also solver steps, of which there are no more than training timesteps
Rank = Annotated[int, Range(1, 2**13)]  # of LoRA: no layer is wider
Processes = Annotated[int, Range(1, 10**5)]
Finite = Annotated[float, Range(-1e30, 1e30)]
Positive = Annotated[float, Range(0, 1e30, above=True)]
NonNegative = Annotated[float, Range(0, 1e30)]
Share = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, above=True, below=True)]  # of a moving average
ProperShare = Annotated[float, Range(0, 1, below=True)]  # of what is left out: something is left
Text = Annotated[str, Filled()]
