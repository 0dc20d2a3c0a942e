"""Conditions of the world (prompt and first frame) for generation: disjoint splits, fixed by a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from apo.config.numbers import Count, Seed
from apo.errors import UserError
from apo.interfaces import Conditions, DataRow
from apo.parts import Setting
from apo.world.grammar import describe, parse
from apo.world.render import FRAMES, SIZE, SPLITS, Clip, random_clip, render

SplitName = Literal["train", "validation", "test"]
STREAMS = {name: 100 + index for index, name in enumerate(SPLITS)}


@dataclass
class WorldConditions(Conditions):
    """Condition i of a split depends on (split, seed, i) alone. Glyphs of a split are in no other split."""

    split: SplitName
    count: Count
    seed: Seed

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r}: the world has {', '.join(SPLITS)}")

    @property
    def results(self) -> str:
        return "eval" if self.split == "test" else f"eval_{self.split}"

    def check(self, setting: Setting) -> None:
        """ValueError unless a model's videos have the world's size."""
        require_world(setting.spec, "conditions=world", "conditions=prompts conditions.path=MANIFEST evaluator=none")

    def __len__(self) -> int:
        return self.count

    def clips(self, start: int, stop: int) -> list[Clip]:
        """What conditions start..stop-1 ask for, with everything that their prompts leave open."""
        return [
            random_clip(np.random.default_rng([STREAMS[self.split], self.seed, i]), self.split)
            for i in range(start, stop)
        ]

    def batch(self, start: int, stop: int) -> tuple[list[str], Tensor]:
        """Prompts and first frames (B, 3, 64, 64) uint8 of conditions start..stop-1."""
        clips = self.clips(start, stop)
        return [describe(clip.meaning) for clip in clips], torch.stack([render(clip)[0] for clip in clips])


def require_world(spec, what: str, instead: str) -> None:
    """UserError unless videos of `spec` (frames, height, width) have the world's size; says what to use instead."""
    found = (spec.frames, spec.height, spec.width)
    if found != (FRAMES, SIZE, SIZE):
        raise UserError(
            f"{what} needs videos of the world, {FRAMES} frames of {SIZE} x {SIZE}, and model.spec has "
            f"{found[0]} of {found[1]} x {found[2]}: use model=tiny, or {instead}"
        )


def require_sentences(rows: Sequence[DataRow], what: str, instead: str) -> None:
    """UserError unless every row's prompt is a sentence of the world; names the first, and what to use instead."""
    for row in rows:
        try:
            parse(row.prompt)
        except ValueError as error:
            raise UserError(
                f"{what} judges the world only, and in row {row.line} of the data {error}; or use {instead}"
            ) from None
