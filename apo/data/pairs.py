"""Labelled pairs of the user's own (`data=pairs`)."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from apo.config.numbers import ProperShare, Seed, Text
from apo.data.cache.store import LatentCache, Verified, fingerprint
from apo.data.cached import CachedDataset, stacked
from apo.data.manifest import Manifest, ManifestError, PairRow, Row, check, read
from apo.data.repeats import notes
from apo.data.shares import ALL, from_environment
from apo.data.stream import Data, Split
from apo.errors import UserError
from apo.interfaces import Pair, Policy
from apo.io.video import Spec
from apo.parts import Setting


class PairDataset(CachedDataset):
    """Cached pairs, read from disk one by one."""

    def collate(self, items: list[dict]) -> Pair:
        return Pair(stacked(items, "chosen"), stacked(items, "rejected"), self.condition(items))

    def split(self, validation_fraction: float, seed: int) -> Split:
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
        return Split(*(PairDataset(side, self.max_sequence_length, self.verify) for side in sides))


class UserRows(Data):
    """Rows of the user's manifest, each encoded once into cache_dir.

    path: .jsonl, .csv or .parquet, or a folder with metadata.*. columns: see `apo.data.columns.Columns`.
    """

    row_type: type[Row]
    encodes = True

    def __init__(self, path: Text, cache_dir: Text, columns: Mapping[str, str] | None = None):
        self.path, self.cache_dir, self.columns = Path(path), Path(cache_dir), columns

    def check(self, setting: Setting) -> None:
        """ManifestError with every bad row; says which rows repeat or contradict each other. See Data."""
        say_notes(self.path, self.rows(setting.spec))

    def user_rows(self) -> list[Row]:
        return self.manifest().rows

    def evaluation(self) -> dict[str, object]:
        """Videos show no first frame of what is to be generated, so other rows are needed."""
        return {"conditions": "prompts", "conditions.path": "PROMPTS.jsonl", "evaluator": "none"}

    def manifest(self) -> Manifest:
        """The table, typed; no other file is looked at."""
        return read(self.path, self.row_type, self.columns)

    def rows(self, spec: Spec) -> list[Row]:
        """All rows. ManifestError with every bad one; of those that torchrun or srun started, each process looks at its
        share.
        """
        manifest, mine = self.manifest(), from_environment(os.environ) or ALL
        check(replace(manifest, rows=manifest.rows[mine.rank :: mine.world]), spec)
        return manifest.rows


def say_notes(path: Path, rows: list[Row]) -> None:
    """Prints what there is to say about a manifest whose rows are all usable, once for all processes."""
    if (from_environment(os.environ) or ALL).rank == 0 and os.environ.get(
        "LOCAL_RANK", "0"
    ) == "0":  # the latter: Lightning's own children
        for note in notes(rows):
            print(f"{path}: {note}", flush=True)


class UserPairs(UserRows):
    """Pairs of a manifest (see `apo.data.manifest.PairRow`), encoded once into cache_dir."""

    gives, row_type = "pairs", PairRow

    def __init__(
        self,
        path: Text,
        cache_dir: Text,
        validation_fraction: ProperShare,
        seed: Seed,
        columns: Mapping[str, str] | None = None,
    ):
        """seed: of the split into training and validation, not of the training."""
        super().__init__(path, cache_dir, columns)
        self.validation_fraction, self.seed = validation_fraction, seed
        if not 0 <= validation_fraction < 1:
            raise UserError(f"data.validation_fraction={validation_fraction}: give a number in [0, 1)")

    def prepare(self, policy: Policy) -> Split:
        """See Data. ManifestError on every rank for rows whose files turn out not to be decodable."""
        files, verify = encoded(self.path, self.rows(policy.spec), self.cache_dir, policy)
        return PairDataset(files, policy.max_sequence_length, verify).split(self.validation_fraction, self.seed)


def encoded(path: Path, rows: list[Row], cache_dir: Path, policy: Policy) -> tuple[list[Path], Verified]:
    """The cache file of each row of the manifest `path`, and what makes sure of them; ManifestError on every rank.

    Processes that torchrun or srun started share the work, each its own rows first: it then goes through the others'
    rows, once those who are at them have finished or died.
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
