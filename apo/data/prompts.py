"""`data=prompts`: the user's own conditions, a prompt and a first frame each, for stages in which the
policy generates.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from apo.config.numbers import Count, Null, Text
from apo.data.cached import ConditionDataset
from apo.data.cells import ImageFile
from apo.data.manifest import Row, load
from apo.data.pairs import PairDataset, UserRows, encoded, say_notes
from apo.data.stream import Split
from apo.interfaces import Conditions, Policy
from apo.io.checksums import file_digest
from apo.io.video import Spec, read_image
from apo.parts import Setting
from apo.policies.model import VideoSpec


@dataclass(frozen=True, kw_only=True)
class PromptRow(Row):
    """What to generate from."""

    image: ImageFile


class UserPrompts(UserRows):
    """Conditions of a manifest (see `PromptRow`), encoded once into cache_dir."""

    gives, row_type = "prompts", PromptRow

    def evaluation(self) -> dict[str, object]:
        return super().evaluation() | {"conditions.path": self.path}

    def prepare(self, policy: Policy) -> Split:
        """See Data. ManifestError on every rank for rows whose files turn out not to be decodable."""
        files, verify = encoded(self.path, self.rows(policy.spec), self.cache_dir, policy)
        length = policy.max_sequence_length
        return Split(ConditionDataset(files, length, verify), PairDataset([], length))


@dataclass
class PromptConditions(Conditions):
    """Held-out conditions of a manifest (see `PromptRow`) for evaluate.py: the first `count`, or all (None).

    path, columns: see `UserRows`.
    """

    path: Text
    count: Annotated[Count | None, Null("for all that a manifest has")]
    spec: Spec
    columns: Mapping[str, str] | None = None
    results = "eval_prompts"

    def __post_init__(self):
        self.spec = VideoSpec.of(self.spec)

    @cached_property
    def rows(self) -> list[PromptRow]:
        """ManifestError with every bad row."""
        return load(Path(self.path), PromptRow, self.spec, self.columns)[: self.count]

    def check(self, setting: Setting) -> None:
        """UserError for what is wrong with the manifest and its files. Says which rows repeat each other."""
        say_notes(Path(self.path), self.rows)

    @cached_property
    def identity(self) -> str:
        """Of what the rows say and their images show."""
        return hashlib.sha256(
            "".join(f"{row.prompt} {file_digest(row.image)} " for row in self.rows).encode()
        ).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, start: int, stop: int) -> tuple[list[str], Tensor]:
        """Prompts and first frames (B, 3, height, width) uint8 of conditions start..stop-1."""
        rows = self.rows[start:stop]
        frames = [read_image(row.image, self.spec.height, self.spec.width, self.spec.fit) for row in rows]
        return [row.prompt for row in rows], torch.stack(frames)
