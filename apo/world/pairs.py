"""`data=world_pairs`: a frozen model generates, the oracle labels, clean against distorted (Section 4.2)."""

from pathlib import Path
from typing import TYPE_CHECKING

from apo.config.numbers import Count
from apo.data.pairs import PairDataset
from apo.data.stream import Split
from apo.io.files import write_tensors
from apo.solvers.ode import generate, initial_noise
from apo.terminal import progress
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
        start, size = batch * self.batch_size, self.batch_size
        prompts, frames = self.conditions.batch(start, start + size)
        cond = policy.encode_condition(prompts, frames)
        candidates = []
        for which in range(2):
            seeds = [(self.seed * 2 + which) * 10**6 + i for i in range(start, start + size)]
            latents = generate(policy, self.guidance, cond, initial_noise(policy, seeds))
            candidates.append((latents, measure(policy.decode(latents), prompts, frames).distorted))
        (first, first_bad), (second, second_bad) = candidates
        names = []
        for i in (first_bad != second_bad).nonzero().flatten().tolist():
            chosen, rejected = (second, first) if first_bad[i] else (first, second)
            name = f"{batch:05d}_{i:02d}-pair.safetensors"
            tensors = row_tensors({"chosen": chosen[i], "rejected": rejected[i]}, cond, i)
            write_tensors(folder / name, tensors, {"prompt": prompts[i], "domain": ""})
            names.append(name)
        return names
