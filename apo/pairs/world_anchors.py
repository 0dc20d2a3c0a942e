"""`data=world_anchors`: what the baseline generates, sorted by the oracle into good and bad examples (Section 3.3.2)."""

import hashlib
import json
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from apo.data.anchors import NEGATIVE, POSITIVE, AnchorDataset, Mixed
from apo.data.cache import remembered, save
from apo.data.pairs import PairDataset, PairSplit
from apo.generate import generate, initial_noise
from apo.interfaces import Guidance
from apo.pairs.world import PATIENCE, row_tensors
from apo.policies.model import WanModel
from apo.policies.wan import WanPolicy
from apo.world.conditions import WorldConditions, require_world
from apo.world.grammar import describe, parse
from apo.world.oracle import Measurement, measure
from apo.world.render import redirected

LABELS = {POSITIVE: POSITIVE, "mismatched": NEGATIVE, "distorted": NEGATIVE}  # of each kind of anchor
ASKED = 2 * 10**9  # keeps the noise and the redirections apart from those of world_pairs


class WorldAnchors:
    """`count` videos of the base model, whatever stage asks; cached by what went in.

    Positive: clean, and following the prompt. Mismatched: clean, not following; mostly what the model made of the same
    first frame and a sentence with another direction or speed, so that nothing but the motion tells them from positives.
    Distorted: as they come.

    positive_share: of the anchors that are built, and of those drawn in training.
    distorted_share: of the negative ones that are built.
    """

    gives = "anchors"

    def __init__(
        self, model: WanModel, guidance: Guidance, cache_dir: str, count: int, positive_share: float, distorted_share: float,
        split: str, batch_size: int, seed: int,
    ):  # fmt: skip
        self.model, self.guidance, self.cache_dir = model, guidance, Path(cache_dir)
        self.mix, self.batch_size, self.split, self.seed = Mixed(positive_share), batch_size, split, seed
        if not 0 <= distorted_share <= 1:
            raise ValueError(f"data.distorted_share={distorted_share}: give a share in [0, 1]")
        positive = round(count * positive_share)
        distorted = round((count - positive) * distorted_share)
        self.quota = {POSITIVE: positive, "mismatched": count - positive - distorted, "distorted": distorted}
        self.mix.require([LABELS[kind] for kind, wanted in self.quota.items() if wanted])
        self.conditions = WorldConditions(split, 10**9, seed)

    def check(self, spec) -> None:
        """ValueError unless the model's videos are of the world's size."""
        require_world(spec, "data=world_anchors", "data=anchors data.path=MANIFEST")

    def prepare(self, policy: WanPolicy) -> PairSplit:
        """Generates what the cache lacks; any number of processes may ask at once, one of them builds."""
        folder = self.folder(policy)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"), policy.base():
            policy.eval()
            found = self.build(policy, folder)
            policy.train()
        files = [folder / name for name in sorted(found)]
        labels = [LABELS[found[file.name]] for file in files]
        length = policy.max_sequence_length
        return PairSplit(AnchorDataset(files, labels, length), PairDataset([], length), self.mix)

    def folder(self, policy: WanPolicy) -> Path:
        key = [policy.base_hash, policy.fingerprint, self.model.shift, self.model.num_inference_steps, self.split, self.seed]
        key += [type(self.guidance).__name__, vars(self.guidance), self.batch_size]
        return self.cache_dir / f"world_anchors-{hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:16]}"

    def build(self, policy: WanPolicy, folder: Path) -> dict[str, str]:
        """File name -> kind, the first of each kind up to its quota; batches done before are read from their list."""
        found, missing, batch = {}, dict(self.quota), 0
        with tqdm(total=sum(missing.values()), desc="world anchors from the baseline") as bar:
            while any(missing.values()):
                made = remembered(folder / f"batch_{batch:05d}.json", lambda batch=batch: self.make(policy, folder, batch))
                for name, kind in made.items():
                    if missing[kind]:
                        found[name], missing[kind] = kind, missing[kind] - 1
                        bar.update()
                batch += 1
                if batch * self.batch_size > PATIENCE * (len(found) + 1):
                    lacking = ", ".join(f"{count} {kind}" for kind, count in missing.items() if count)
                    raise RuntimeError(
                        f"{batch * self.batch_size} conditions left {lacking} anchors to find: {self.model.path} under this guidance "
                        "is too good or too bad for them; change data.positive_share or data.distorted_share"
                    )
        return found

    def make(self, policy: WanPolicy, folder: Path, batch: int) -> dict[str, str]:
        """Generates a batch of conditions as asked and redirected, saves what is of use; returns file name -> kind."""
        start, size = batch * self.batch_size, self.batch_size
        prompts, frames = self.conditions.batch(start, start + size)
        turned = [redirected(clip, np.random.default_rng([ASKED, self.seed, start + i]))
                  for i, clip in enumerate(self.conditions.clips(start, start + size))]
        cond, kinds = policy.encode_condition(prompts, frames), {}
        for which, asked in enumerate((prompts, [describe(clip.meaning) for clip in turned])):
            seeds = [ASKED + (self.seed * 2 + which) * 10**6 + start + i for i in range(size)]
            noise = initial_noise(policy, seeds)
            latents = generate(policy, self.guidance, policy.encode_condition(asked, frames), noise)
            for i, kind in enumerate(sorted_out(measure(policy.decode(latents), prompts, frames), bool(which))):
                if kind is not None:
                    name = f"{batch:05d}_{i:02d}_{which}-anchor.safetensors"
                    texts = {"prompt": prompts[i], "domain": parse(prompts[i]).domain, "label": LABELS[kind]}
                    save(folder / name, row_tensors({"video": latents[i]}, cond, i), texts)
                    kinds[name] = kind
        return kinds


def sorted_out(found: Measurement, redirected: bool) -> list[str | None]:
    """The kind of each video, None if it is of no use: a redirected one is there for its mismatch alone."""
    kinds = []
    for distorted, followed in zip(found.distorted.tolist(), found.followed.tolist()):
        kind = "distorted" if distorted else POSITIVE if followed else "mismatched"
        kinds.append(kind if kind == "mismatched" or not redirected else None)
    return kinds
