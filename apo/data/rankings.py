"""Labelled rankings for stage=ranker: the interface, and the user's own (`data=rankings`)."""

import filecmp
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from apo.config.numbers import ProperShare, Seed, Text
from apo.data.cells import VideoFile
from apo.data.domains import DomainRule
from apo.data.manifest import Manifest, Problem, Row, check, read
from apo.data.pairs import say_notes
from apo.data.stream import Data, Split
from apo.errors import UserError
from apo.interfaces import Policy
from apo.io.checksums import file_digest
from apo.io.video import Spec, read_video
from apo.parts import Setting
from apo.policies.model import VideoSpec


@dataclass
class Ranking:
    """Labelled pairs of videos."""

    first: Tensor  # (B, F, 3, H, W) uint8
    second: Tensor
    label: Tensor  # (B,) in 1..4 of Appendix C.2
    prompt: list[str]
    domain: list[str]


class RankingDataset(Dataset):
    """Items are dicts of one pair's fields."""

    identity: str  # a hash of the content, for the lineage
    domains: list[str]  # of the items, in their order

    def __len__(self) -> int:
        return len(self.domains)

    def collate(self, items: list[dict]) -> Ranking:
        columns = {name: [item[name] for item in items] for name in ("first", "second", "label", "prompt", "domain")}
        return Ranking(
            torch.stack(columns["first"]),
            torch.stack(columns["second"]),
            torch.tensor(columns["label"]),
            columns["prompt"],
            columns["domain"],
        )


@dataclass(frozen=True, kw_only=True)
class RankingRow(Row):
    """Two videos of one condition and what people said of them."""

    first: VideoFile
    second: VideoFile
    label: Literal[
        1, 2, 3, 4
    ]  # 1, 2: the first or the second is less distorted; 3, 4: it moves more, distortion is similar

    def texts(self) -> dict[str, str]:
        return super().texts() | {"label": str(self.label)}

    def problem(self) -> str | None:
        if filecmp.cmp(self.first, self.second, shallow=False):
            return f"first and second are the same video ({self.first.name}, {self.second.name}): drop the row"

    def verdict(self, name: Callable[[Path], str]) -> tuple[bool, str]:
        return self.label > 2, name(self.first if self.label % 2 else self.second)


class UserRankingDataset(RankingDataset):
    """Rows of a manifest; videos are decoded when they are asked for, as the policy's would look: the spec's size and
    rate.
    """

    def __init__(self, rows: list[RankingRow], domains: list[str], spec: Spec):
        self.rows, self.domains, self.spec = rows, domains, spec
        self.identity = hashlib.sha256("".join(map(content, rows)).encode()).hexdigest()

    def __getitem__(self, index: int) -> dict:
        row, spec = self.rows[index], self.spec
        shape = spec.height, spec.width, spec.frames, spec.fps
        first, second = (read_video(path, *shape, row.segment, spec.fit) for path in (row.first, row.second))
        return {
            "first": first,
            "second": second,
            "label": row.label,
            "prompt": row.prompt,
            "domain": self.domains[index],
        }

    def part(self, places: list[int]) -> "UserRankingDataset":
        return UserRankingDataset([self.rows[i] for i in places], [self.domains[i] for i in places], self.spec)


def content(row: RankingRow) -> str:
    """All that a row says and shows, as text."""
    return json.dumps([row.texts(), row.segment, *(file_digest(path) for path in row.files(VideoFile).values())])


class UserRankings(Data):
    """Rankings of a manifest (see `RankingRow`).

    path, columns: see `UserRows`. domains: of rows that name none. domain: the only one that is used; None for all.
    validation_fraction: of the rankings, held out by prompt. seed: of that split.
    """

    gives = "rankings"

    def __init__(
        self,
        path: Text,
        domains: DomainRule,
        domain: str | None,
        spec: Spec,
        validation_fraction: ProperShare,
        seed: Seed,
        columns: Mapping[str, str] | None = None,
    ):
        self.columns = columns
        self.path, self.domains, self.domain, self.spec = Path(path), domains, domain, VideoSpec.of(spec)
        self.validation_fraction, self.seed = validation_fraction, seed
        if not 0 <= validation_fraction < 1:
            raise UserError(f"data.validation_fraction={validation_fraction}: give a number in [0, 1)")

    def check(self, setting: Setting) -> None:
        """ManifestError with every bad row; UserError if no row is of `domain`. Says which rows repeat or contradict
        each other.
        """
        manifest = self.manifest()
        check(manifest, setting.spec)
        say_notes(self.path, manifest.rows)
        if not self.chosen(manifest.rows):
            there = ", ".join(sorted({self.domain_of(row) for row in manifest.rows}))
            raise UserError(f"data.domain={self.domain}: no row of {self.path} is of it; there are {there}")

    def prepare(self, policy: Policy) -> Split:
        """The rankings of two sides that share no prompt."""
        rows = self.chosen(self.manifest().rows)
        dataset = UserRankingDataset(rows, [self.domain_of(row) for row in rows], self.spec)
        held_out = self.held_out([row.prompt for row in rows])
        return Split(*(dataset.part([i for i, out in enumerate(held_out) if out == side]) for side in (False, True)))

    def manifest(self) -> Manifest:
        """The table, with the rows among its problems whose domain has no ranking prompt."""
        manifest = read(self.path, RankingRow, self.columns)
        return replace(
            manifest, problems=manifest.problems + [p for row in manifest.rows for p in self.unknown_domain(row)]
        )

    def unknown_domain(self, row: RankingRow) -> list[Problem]:
        try:
            self.domains.text(self.domain_of(row))
            return []
        except ValueError as error:
            return [Problem(row.line, str(error))]

    def domain_of(self, row: RankingRow) -> str:
        return row.domain or self.domains.of_prompt(row.prompt)

    def chosen(self, rows: list[RankingRow]) -> list[RankingRow]:
        return [row for row in rows if self.domain in (None, self.domain_of(row))]

    def held_out(self, prompts: list[str]) -> list[bool]:
        """Whether each ranking is held out: whole prompts, drawn by their text, until the fraction is reached."""
        count = defaultdict(int)
        for prompt in prompts:
            count[prompt] += 1
        drawn, chosen, taken = (
            sorted(count, key=lambda p: hashlib.sha256(f"{self.seed} {p}".encode()).digest()),
            set(),
            0,
        )
        for prompt in drawn:
            if taken >= self.validation_fraction * len(prompts):
                break
            chosen.add(prompt)
            taken += count[prompt]
        if len(chosen) == len(drawn):
            raise UserError(
                f"data.validation_fraction={self.validation_fraction} of {len(prompts)} rankings of {len(drawn)} "
                "prompts leaves "
                "none to train on: lower it or add rankings"
            )
        return [prompt in chosen for prompt in prompts]
