"""What `data=` gives to a stage, and in what order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from apo.interfaces import DataRow, Pair, Policy
from apo.parts import Part, Setting
from apo.random import generator

ORDER = 0x0DDE5  # keeps the order's random stream apart from others with the same seed


def shuffled(dataset: Dataset, seed: int, position: int) -> int:
    """The index at a position of an endless stream of epochs, each a permutation of the data set."""
    return permuted(len(dataset), position, seed)


def permuted(count: int, position: int, *key: int) -> int:
    """The number in 0..count-1 at a position of the stream of permutations that `key` seeds."""
    epoch, place = divmod(position, count)
    return int(torch.randperm(count, generator=generator(ORDER, *key, epoch))[place])


@dataclass
class Split:
    """Data sets of one kind; `validation` holds labelled pairs, or nothing. train.identity: a hash of what it holds,
    for the lineage.
    """

    train: Dataset
    validation: Dataset
    order: Callable[[Dataset, int, int], int] = shuffled  # (data set, seed, position in the endless stream) -> index


class Data(Part):
    """What `data=` gives to a stage. A stage names in `stage.data` which kind it trains on."""

    gives: str  # "pairs", "prompts", "anchors", "rankings": batches of Pair, Condition, Anchor, Ranking

    encodes = False  # whether `prepare` works so long that it wants the policy's frozen parts on the device

    def check(self, setting: Setting) -> None:
        """Raises on whatever is wrong with the settings and the user's files; takes seconds and needs no model."""

    def user_rows(self) -> Sequence[DataRow]:
        """Of the user's manifest; none where prompts are made, not read."""
        return ()

    def evaluation(self) -> dict[str, object]:
        """Settings of evaluate.py for what is trained on it, such as conditions and evaluator."""
        return {}  # conf/evaluation has its own

    def prepare(self, policy: Policy) -> Split:
        """The data, encoded by the policy's frozen parts. Slow the first time, resumable; call it on every rank."""
        raise NotImplementedError


class StepBatches(Dataset):
    """Item `step` is this rank's share of optimizer step `step`, a batch of batch_size pairs (or prompts, or anchors).

    The order depends on the seed and the step alone, so a run resumed at a step goes on with the pairs it would have
    had, and `world` ranks of batch_size pairs see together, in rank order, what one rank of world * batch_size does.
    By default each epoch is a permutation of the dataset; a batch may span two. Load it with batch_size=None and no
    sampler that spreads items over ranks.
    """

    def __init__(
        self, pairs: Dataset, batch_size: int, steps: int, seed: int, rank: int = 0, world: int = 1, order=shuffled
    ):
        """order: see `Split`."""
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
