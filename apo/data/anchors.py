"""`data=anchors`: labelled videos of one condition each, that half-online training generates counterparts to (Section
3.3.2).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from apo.config.numbers import Share, Text
from apo.data.cached import CachedDataset, stacked
from apo.data.cells import ImageFile, VideoFile
from apo.data.manifest import Row
from apo.data.pairs import PairDataset, UserRows, encoded
from apo.data.stream import Split, permuted
from apo.errors import UserError
from apo.interfaces import Condition, Policy
from apo.parts import Setting

POSITIVE, NEGATIVE = "positive", "negative"


@dataclass
class Anchor:
    """Labelled latents x_0 (B, C, F, H, W) of one condition each."""

    video: Tensor
    positive: Tensor  # (B,) bool: what a generation should be like; otherwise what it should not
    cond: Condition


@dataclass(frozen=True, kw_only=True)
class AnchorRow(Row):
    """A video of a condition that people called good or bad."""

    video: VideoFile
    label: Literal["positive", "negative"]
    image: ImageFile | None = None  # the first frame to generate from; the video's otherwise

    def texts(self) -> dict[str, str]:
        return super().texts() | {"label": self.label}

    def verdict(self, name: Callable[[Path], str]) -> str:
        return self.label


class AnchorDataset(CachedDataset):
    """Cached anchors, read from disk one by one. labels: of the files, POSITIVE or NEGATIVE."""

    def __init__(
        self,
        files: list[Path],
        labels: list[str],
        max_sequence_length: int,
        verify: Callable[[Path], None] | None = None,
    ):
        super().__init__(files, max_sequence_length, verify)
        self.places = {label: [i for i, given in enumerate(labels) if given == label] for label in (POSITIVE, NEGATIVE)}

    def collate(self, items: list[dict]) -> Anchor:
        positive = torch.tensor([item["label"] == POSITIVE for item in items])
        return Anchor(stacked(items, "video"), positive, self.condition(items))


@dataclass(frozen=True)
class Mixed:
    """An order in which a share `positive` of every stretch are positive anchors, to within one; each label has epochs
    of its own, so the mix does not depend on how many anchors of a label there are.
    """

    positive: float

    def __post_init__(self):
        if not 0 <= self.positive <= 1:
            raise UserError(f"data.positive_share={self.positive}: give a share in [0, 1]")

    def __call__(self, anchors: AnchorDataset, seed: int, position: int) -> int:
        before, after = (math.floor(place * self.positive + 1e-9) for place in (position, position + 1))
        if after > before:
            return chosen(anchors.places[POSITIVE], before, seed, 1)
        return chosen(anchors.places[NEGATIVE], position - before, seed, 2)

    def require(self, labels: list[str]) -> None:
        """ValueError if anchors of a label that is to be drawn are missing."""
        for label, share in ((POSITIVE, self.positive), (NEGATIVE, 1 - self.positive)):
            if share > 0 and label not in labels:
                raise UserError(
                    f"data.positive_share={self.positive}, but none of the {len(labels)} anchors is labelled "
                    f"{label!r}: "
                    f"add some, or set data.positive_share={int(label == NEGATIVE)}"
                )


def chosen(places: list[int], position: int, *key: int) -> int:
    return places[permuted(len(places), position, *key)]


class UserAnchors(UserRows):
    """Anchors of a manifest (see `AnchorRow`), encoded once into cache_dir.

    positive_share: of the anchors drawn in training, whatever their share in the manifest.
    """

    gives, row_type = "anchors", AnchorRow

    def __init__(self, path: Text, cache_dir: Text, positive_share: Share, columns: Mapping[str, str] | None = None):
        super().__init__(path, cache_dir, columns)
        self.mix = Mixed(positive_share)

    def check(self, setting: Setting) -> None:
        """As of `UserRows`; UserError if a label is missing."""
        super().check(setting)
        self.mix.require([row.label for row in self.manifest().rows])

    def prepare(self, policy: Policy) -> Split:
        """See Data. ManifestError on every rank for rows whose files turn out not to be decodable."""
        rows = self.rows(policy.spec)
        (files, verify), length = encoded(self.path, rows, self.cache_dir, policy), policy.max_sequence_length
        return Split(
            AnchorDataset(files, [row.label for row in rows], length, verify), PairDataset([], length), self.mix
        )
