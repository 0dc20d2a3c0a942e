"""`data=prompts`: the user's own conditions, a prompt and a first frame each, for stages in which the policy generates."""

from dataclasses import dataclass
from pathlib import Path

from apo.data.cached import ConditionDataset
from apo.data.manifest import ImageFile, Row
from apo.data.pairs import PairDataset, PairSplit, UserRows, encoded
from apo.data.video import Spec
from apo.interfaces import Policy


@dataclass(frozen=True, kw_only=True)
class PromptRow(Row):
    """What to generate from."""

    image: ImageFile


class UserPrompts(UserRows):
    """Conditions of a manifest (see `PromptRow`), encoded once into cache_dir."""

    gives, row_type = "prompts", PromptRow

    def __init__(self, path: str, cache_dir: str):
        """path: .jsonl or .parquet."""
        self.path, self.cache_dir = Path(path), Path(cache_dir)

    def check(self, spec: Spec) -> None:
        """ManifestError with every bad row; see PairData."""
        self.rows(spec)

    def prepare(self, policy: Policy) -> PairSplit:
        """See PairData. ManifestError on every rank for rows whose files turn out not to be decodable."""
        files = encoded(self.path, self.rows(policy.spec), self.cache_dir, policy)
        length = policy.max_sequence_length
        return PairSplit(ConditionDataset(files, length), PairDataset([], length))
