"""`data=world_pairs`: a frozen model generates, the oracle labels, clean against distorted (Section 4.2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from apo.config.numbers import Count
from apo.data.pairs import PairDataset
from apo.data.stream import Split
from apo.interfaces import Condition
from apo.io.files import write_tensors
from apo.solvers.ode import generate, initial_noise
from apo.terminal import progress
from apo.world import verdicts
from apo.world.oracle import measure
from apo.world.videos import WorldVideos, row_tensors

if TYPE_CHECKING:
    from apo.policies.wan import WanPolicy


class WorldPairs(WorldVideos):
    """`count` pairs of one condition and two seeds, of which the oracle calls exactly one distorted."""

    gives, name, instead = "pairs", "world_pairs", "data=pairs data.path=MANIFEST"

    def __init__(self, count: Count, **videos):
        super().__init__(**videos)
        self.count = count

    def build(self, policy: "WanPolicy", folder: Path) -> Split:
        files = []
        with progress(total=self.count, desc="world pairs", delay=2) as bar:
            batches = self.batches(policy, folder, bar)
            while len(files) < self.count:
                files += [folder / name for name in next(batches)]
                bar.update(min(len(files), self.count) - bar.n)
        length = policy.max_sequence_length
        return Split(PairDataset(files[: self.count], length), PairDataset([], length))

    def make(self, policy: "WanPolicy", folder: Path, batch: int) -> list[str]:
        """Generates a batch of conditions with two seeds each and saves the mixed pairs; returns their file names."""
        cond, candidates = self.candidates(policy, batch)
        distorted = verdicts.known(folder.name, batch)
        if distorted is None:
            distorted = judged(policy, cond, candidates)
        names = []
        for i in (distorted[0] != distorted[1]).nonzero().flatten().tolist():
            rejected = int(distorted[1][i])
            name = f"{batch:05d}_{i:02d}-pair.safetensors"
            pair = {"chosen": candidates[1 - rejected][i], "rejected": candidates[rejected][i]}
            write_tensors(folder / name, row_tensors(pair, cond, i), {"prompt": cond.prompt[i], "domain": ""})
            names.append(name)
        return names

    def candidates(self, policy: "WanPolicy", batch: int) -> tuple[Condition, list[Tensor]]:
        """A batch of conditions, and two videos of each as latents (B, C, F, H, W)."""
        start, stop = batch * self.batch_size, (batch + 1) * self.batch_size
        cond = policy.encode_condition(*self.conditions.batch(start, stop))
        seeds = [[(self.seed * 2 + which) * 10**6 + i for i in range(start, stop)] for which in range(2)]
        return cond, [generate(policy, self.guidance, cond, initial_noise(policy, each)) for each in seeds]


def judged(policy: "WanPolicy", cond: Condition, candidates: Sequence[Tensor]) -> Tensor:
    """(candidates, B) bool: which videos the oracle calls distorted."""
    return torch.stack([measure(policy.decode(each), cond.prompt, cond.frame).distorted for each in candidates])
