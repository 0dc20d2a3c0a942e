"""What `data=` gives to a stage and in what order, and labelled pairs of the user's own (`data=pairs`)."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from filelock import FileLock
from torch.utils.data import Dataset

from apo.data.cache import LatentCache, Verified, fingerprint
from apo.data.cached import CachedDataset, stacked
from apo.data.manifest import Manifest, ManifestError, PairRow, Row, check, read
from apo.data.repeats import notes
from apo.data.shares import ALL, from_environment
from apo.data.video import Spec
from apo.errors import UserError
from apo.interfaces import Pair, Policy
from apo.numbers import ProperShare, Seed, Text
from apo.seeds import generator

ORDER = 0x0DDE5  # keeps the order's random stream apart from others with the same seed


def shuffled(dataset: Dataset, seed: int, position: int) -> int:
    """The index at a position of an endless stream of epochs, each a permutation of the data set."""
    return permuted(len(dataset), position, seed)


def permuted(count: int, position: int, *key: int) -> int:
    """The number in 0..count-1 at a position of the stream of permutations that `key` seeds."""
    epoch, place = divmod(position, count)
    return int(torch.randperm(count, generator=generator(ORDER, *key, epoch))[place])


class PairDataset(CachedDataset):
    """Cached pairs, read from disk one by one."""

    def collate(self, items: list[dict]) -> Pair:
        return Pair(stacked(items, "chosen"), stacked(items, "rejected"), self.condition(items))

    def split(self, validation_fraction: float, seed: int) -> "PairSplit":
        """Held-out conditions, drawn by content: no condition is on both sides, and the model doesn't matter.

        validation_fraction: of the pairs, in [0, 1); at least one condition if it is not 0. ValueError if nothing is
        left to train on.
        """
        by_condition = defaultdict(list)
        for file in self.files:
            by_condition[file.name.split("-")[0]].append(file)
        drawn = sorted(by_condition, key=lambda condition: hashlib.sha256(f"{seed} {condition}".encode()).digest())
        held_out = set()
        for condition in drawn:
            if sum(len(by_condition[c]) for c in held_out) >= validation_fraction * len(self):
                break
            held_out.add(condition)
        sides = ([], [])
        for file in self.files:
            sides[file.name.split("-")[0] in held_out].append(file)
        if not sides[False]:
            raise UserError(
                f"validation_fraction={validation_fraction} of {len(self)} pairs of {len(drawn)} conditions leaves "
                "none to train on: lower data.validation_fraction or add pairs"
            )
        return PairSplit(*(PairDataset(side, self.max_sequence_length, self.verify) for side in sides))


@dataclass
class PairSplit:
    """Data sets of one kind; `validation` holds labelled pairs, or nothing. train.identity: a hash of what it holds, for the lineage."""

    train: Dataset
    validation: PairDataset
    order: Callable[[Dataset, int, int], int] = shuffled  # (data set, seed, position in the endless stream) -> index


class PairData(Protocol):
    """What `data=` gives to a stage. A stage names in `stage.data` which kind it trains on."""

    gives: str  # "pairs", "prompts", "anchors": batches of Pair, Condition, Anchor

    def check(self, spec: Spec) -> None:
        """Raises on whatever is wrong with the settings and the user's files; takes seconds and needs no model."""

    def prepare(self, policy: Policy) -> PairSplit:
        """The data, encoded by the policy's frozen parts. Slow the first time, resumable; call it on every rank."""


class StepBatches(Dataset):
    """Item `step` is this rank's share of optimizer step `step`, a batch of batch_size pairs (or prompts, or anchors).

    The order depends on the seed and the step alone, so a run resumed at a step goes on with the pairs it would have
    had, and `world` ranks of batch_size pairs see together, in rank order, what one rank of world * batch_size does.
    By default each epoch is a permutation of the dataset; a batch may span two. Load it with batch_size=None and no sampler that
    spreads items over ranks.
    """

    def __init__(
        self, pairs: Dataset, batch_size: int, steps: int, seed: int, rank: int = 0, world: int = 1, order=shuffled
    ):
        """order: see `PairSplit`."""
        self.pairs, self.batch_size, self.steps, self.seed = pairs, batch_size, steps, seed
        self.rank, self.world, self.order = rank, world, order

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Pair:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        return self.pairs.collate([self.pairs[index] for index in self.indices(step)])

    def indices(self, step: int) -> list[int]:
        """Of this rank's pairs in the dataset."""
        first = (step * self.world + self.rank) * self.batch_size
        return [self.order(self.pairs, self.seed, position) for position in range(first, first + self.batch_size)]


class UserRows:
    """Rows of the user's manifest, each encoded once into cache_dir.

    path: .jsonl, .csv or .parquet, or a folder with metadata.*. columns: see `apo.data.columns.Columns`.
    """

    row_type: type[Row]

    def __init__(self, path: Text, cache_dir: Text, columns: Mapping[str, str] | None = None):
        self.path, self.cache_dir, self.columns = Path(path), Path(cache_dir), columns

    def check(self, spec: Spec) -> None:
        """ManifestError with every bad row; says which rows repeat or contradict each other. See PairData."""
        say_notes(self.path, self.rows(spec))

    def manifest(self) -> Manifest:
        """The table, typed; no other file is looked at."""
        return read(self.path, self.row_type, self.columns)

    def rows(self, spec: Spec) -> list[Row]:
        """All rows. ManifestError with every bad one; of those that torchrun or srun started, each process looks at its share."""
        manifest, mine = self.manifest(), from_environment(os.environ) or ALL
        check(replace(manifest, rows=manifest.rows[mine.rank :: mine.world]), spec)
        return manifest.rows


def say_notes(path: Path, rows: list[Row]) -> None:
    """Prints what there is to say about a manifest whose rows are all usable, once for all processes."""
    if (from_environment(os.environ) or ALL).rank == 0 and os.environ.get("LOCAL_RANK", "0") == "0":  # the latter: Lightning's own children
        for note in notes(rows):
            print(f"{path}: {note}", flush=True)


class UserPairs(UserRows):
    """Pairs of a manifest (see `apo.data.manifest.PairRow`), encoded once into cache_dir."""

    gives, row_type = "pairs", PairRow

    def __init__(
        self, path: Text, cache_dir: Text, validation_fraction: ProperShare, seed: Seed, columns: Mapping[str, str] | None = None
    ):
        """seed: of the split into training and validation, not of the training."""
        super().__init__(path, cache_dir, columns)
        self.validation_fraction, self.seed = validation_fraction, seed
        if not 0 <= validation_fraction < 1:
            raise UserError(f"data.validation_fraction={validation_fraction}: give a number in [0, 1)")

    def prepare(self, policy: Policy) -> PairSplit:
        """See PairData. ManifestError on every rank for rows whose files turn out not to be decodable."""
        files, verify = encoded(self.path, self.rows(policy.spec), self.cache_dir, policy)
        return PairDataset(files, policy.max_sequence_length, verify).split(self.validation_fraction, self.seed)


def encoded(path: Path, rows: list[Row], cache_dir: Path, policy: Policy) -> tuple[list[Path], Verified]:
    """The cache file of each row of the manifest `path`, and what makes sure of them; ManifestError on every rank.

    Processes that torchrun or srun started share the work, each its own rows first: it then goes through the others' rows, once
    those who are at them have finished or died.
    """
    cache = LatentCache(cache_dir, fingerprint(policy))
    cache.folder.mkdir(parents=True, exist_ok=True)
    mine, names, problems = from_environment(os.environ) or ALL, {}, []
    for turn in range(mine.world):
        share = (mine.rank + turn) % mine.world
        with FileLock(cache.folder / f"{share}of{mine.world}.lock"):
            built = cache.build(rows, policy, share, mine.world, quiet=turn > 0)
        names |= built.names
        problems += built.problems
    if problems:
        raise ManifestError(path, sorted(problems, key=lambda problem: problem.line))
    by_name = {names[index]: row for index, row in enumerate(rows)}
    verify = Verified(cache, by_name, policy, f"rank{mine.rank}of{mine.world}")
    return [cache.folder / names[index] for index in range(len(rows))], verify
