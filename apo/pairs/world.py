"""`data=world_pairs`: the baseline generates, the oracle labels, clean against distorted (Section 4.2)."""

import hashlib
import json
from pathlib import Path

import torch
from filelock import FileLock
from tqdm import tqdm

from apo.data.cache import remembered, save
from apo.data.pairs import PairDataset, PairSplit
from apo.generate import generate, initial_noise
from apo.interfaces import Condition, Guidance
from apo.policies.model import VideoSpec, WanModel
from apo.policies.wan import WanPolicy
from apo.world.conditions import WorldConditions, require_world
from apo.world.oracle import measure

PATIENCE = 200  # conditions a pair at most


class WorldPairs:
    """`count` pairs of one condition and two seeds, of which the oracle calls exactly one distorted.

    Built by the base model without any adapter, whatever stage asks; cached by what went in.
    """

    gives = "pairs"

    def __init__(
        self, model: WanModel, guidance: Guidance, cache_dir: str, count: int, split: str, batch_size: int, seed: int
    ):
        self.model, self.guidance, self.cache_dir, self.count = model, guidance, Path(cache_dir), count
        self.batch_size, self.seed, self.split = batch_size, seed, split
        self.conditions = WorldConditions(split, 10**9, seed)

    def check(self, spec: VideoSpec) -> None:
        require_world(spec, "data=world_pairs", "data=pairs data.path=MANIFEST")

    def prepare(self, policy: WanPolicy) -> PairSplit:
        """Generates what the cache lacks; any number of processes may ask at once, one of them builds."""
        folder = self.folder(policy)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"), policy.base():
            policy.eval()
            files = self.build(policy, folder)
            policy.train()
        return PairSplit(PairDataset(files, policy.max_sequence_length), PairDataset([], policy.max_sequence_length))

    def folder(self, policy: WanPolicy) -> Path:
        key = [policy.base_hash, policy.fingerprint, self.model.shift, self.model.num_inference_steps, self.split, self.seed]
        key += [type(self.guidance).__name__, vars(self.guidance), self.batch_size]
        return self.cache_dir / f"world_pairs-{hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:16]}"

    def build(self, policy: WanPolicy, folder: Path) -> list[Path]:
        """The first `count` pair files; batches of conditions done before are read from their list."""
        files, batch = [], 0
        with tqdm(total=self.count, desc="world pairs from the baseline") as bar:
            while len(files) < self.count:
                names = remembered(folder / f"batch_{batch:05d}.json", lambda batch=batch: self.make(policy, folder, batch))
                files += [folder / name for name in names]
                bar.update(min(len(files), self.count) - bar.n)
                batch += 1
                if batch * self.batch_size > PATIENCE * (len(files) + 1):
                    raise RuntimeError(
                        f"{len(files)} of {batch * self.batch_size} conditions gave a pair of which one video is clean and "
                        f"one distorted: {self.model.path} under this guidance is too good or too bad to make world pairs"
                    )
        return files[: self.count]

    def make(self, policy: WanPolicy, folder: Path, batch: int) -> list[str]:
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
            save(folder / name, tensors, {"prompt": prompts[i], "domain": ""})
            names.append(name)
        return names


def row_tensors(videos: dict[str, torch.Tensor], cond: Condition, i: int) -> dict[str, torch.Tensor]:
    """What a cache file holds of condition i and its videos' latents (see `apo.data.cache.LatentCache`)."""
    tensors = videos | {"text": cond.text[i], "image": cond.image[i], "frame": cond.frame[i]}
    if cond.image_embeds is not None:
        tensors["image_embeds"] = cond.image_embeds[i]
    return {key: value.contiguous().clone() for key, value in tensors.items()}
