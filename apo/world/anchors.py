"""`data=world_anchors`: what the baseline generates, sorted by the oracle into good and bad examples
(Section 3.3.2).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apo.config.numbers import Count, Share
from apo.data.anchors import NEGATIVE, POSITIVE, AnchorDataset, Mixed
from apo.data.pairs import PairDataset
from apo.data.stream import Split
from apo.io.files import write_tensors
from apo.solvers.ode import generate, initial_noise
from apo.terminal import progress
from apo.world.grammar import describe, parse
from apo.world.oracle import Measurement, measure
from apo.world.render import redirected
from apo.world.videos import WorldVideos, row_tensors

if TYPE_CHECKING:
    from apo.policies.wan import WanPolicy

LABELS = {POSITIVE: POSITIVE, "mismatched": NEGATIVE, "distorted": NEGATIVE}  # of each kind of anchor
ASKED = 2 * 10**9  # keeps the noise and the redirections apart from those of world_pairs


class WorldAnchors(WorldVideos):
    """`count` videos of a frozen model.

    Positive: clean, and following the prompt. Mismatched: clean, not following; mostly what the model made of the same
    first frame and a sentence with another direction or speed, so that nothing but the motion tells them from
    positives. Distorted: as they come.

    positive_share: of the anchors that are built, and of those drawn in training.
    distorted_share: of the negative ones that are built.
    """

    gives, name, instead = "anchors", "world_anchors", "data=anchors data.path=MANIFEST"
    hint = "change data.positive_share or data.distorted_share"

    def __init__(self, count: Count, positive_share: Share, distorted_share: Share, **videos):
        super().__init__(**videos)
        self.mix = Mixed(positive_share)
        if not 0 <= distorted_share <= 1:
            raise ValueError(f"data.distorted_share={distorted_share}: give a share in [0, 1]")
        positive = round(count * positive_share)
        distorted = round((count - positive) * distorted_share)
        self.quota = {POSITIVE: positive, "mismatched": count - positive - distorted, "distorted": distorted}
        self.mix.require([LABELS[kind] for kind, wanted in self.quota.items() if wanted])

    def build(self, policy: "WanPolicy", folder: Path) -> Split:
        """Of each kind the first, up to its quota."""
        found, missing = {}, dict(self.quota)
        with progress(total=sum(missing.values()), desc="world anchors", delay=2) as bar:
            batches = self.batches(policy, folder, bar)
            while any(missing.values()):
                for name, kind in next(batches).items():
                    if missing[kind]:
                        found[name], missing[kind] = kind, missing[kind] - 1
                        bar.update()
        files = [folder / name for name in sorted(found)]
        labels = [LABELS[found[file.name]] for file in files]
        length = policy.max_sequence_length
        return Split(AnchorDataset(files, labels, length), PairDataset([], length), self.mix)

    def make(self, policy: "WanPolicy", folder: Path, batch: int) -> dict[str, str]:
        """Generates a batch of conditions as asked and redirected, saves what is of use; returns file name -> kind."""
        start, size = batch * self.batch_size, self.batch_size
        prompts, frames = self.conditions.batch(start, start + size)
        turned = [
            redirected(clip, np.random.default_rng([ASKED, self.seed, start + i]))
            for i, clip in enumerate(self.conditions.clips(start, start + size))
        ]
        cond, kinds = policy.encode_condition(prompts, frames), {}
        for which, asked in enumerate((prompts, [describe(clip.meaning) for clip in turned])):
            seeds = [ASKED + (self.seed * 2 + which) * 10**6 + start + i for i in range(size)]
            noise = initial_noise(policy, seeds)
            latents = generate(policy, self.guidance, policy.encode_condition(asked, frames), noise)
            for i, kind in enumerate(sorted_out(measure(policy.decode(latents), prompts, frames), bool(which))):
                if kind is not None:
                    name = f"{batch:05d}_{i:02d}_{which}-anchor.safetensors"
                    texts = {"prompt": prompts[i], "domain": parse(prompts[i]).domain, "label": LABELS[kind]}
                    write_tensors(folder / name, row_tensors({"video": latents[i]}, cond, i), texts)
                    kinds[name] = kind
        return kinds


def sorted_out(found: Measurement, redirected: bool) -> list[str | None]:
    """The kind of each video, None if it is of no use: a redirected one is there for its mismatch alone."""
    kinds = []
    for distorted, followed in zip(found.distorted.tolist(), found.followed.tolist()):
        kind = "distorted" if distorted else POSITIVE if followed else "mismatched"
        kinds.append(kind if kind == "mismatched" or not redirected else None)
    return kinds
