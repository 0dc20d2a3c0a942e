"""What `data=world_pairs` and `data=world_anchors` share: videos of the world by a frozen model, made once, batch by
batch.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from filelock import FileLock

from apo.config.numbers import Seed, Size, Text
from apo.data.cache.store import flaw, load_or_make
from apo.data.stream import Data, Split
from apo.interfaces import Condition, Guidance
from apo.io.checksums import Checksums
from apo.io.files import sweep
from apo.parts import Setting
from apo.policies.adapter import adapter_hash
from apo.policies.model import WanModel
from apo.terminal import Lines
from apo.world.conditions import SplitName, WorldConditions, require_world

if TYPE_CHECKING:
    from apo.policies.wan import WanPolicy

MAX_CONDITIONS_PER_VIDEO = 200  # of use


class WorldVideos(Data, ABC):
    """Batches of conditions of a split, what `generator` makes of them, and what of it is of use.

    generator: `base`, the model without any adapter, whatever stage asks; `start`, with the adapter that the stage
    starts at. batch_size: conditions at a time. seed: of conditions and noise.
    """

    name: str  # of the config option, and of the cache's folder
    instead: str  # what serves models of other sizes than the world's
    hint = "use another model or guidance"  # where too few of its videos are of use

    def __init__(
        self,
        model: WanModel,
        guidance: Guidance,
        cache_dir: Text,
        split: SplitName,
        batch_size: Size,
        seed: Seed,
        generator: Literal["base", "start"],
        adapter: str | None,
    ):
        self.model, self.guidance, self.cache_dir = model, guidance, Path(cache_dir)
        self.batch_size, self.split, self.seed = batch_size, split, seed
        self.generator, self.adapter = generator, adapter
        self.conditions = WorldConditions(split, 10**9, seed)
        if generator not in ("base", "start"):
            raise ValueError(f"data.generator={generator!r}: base or start")
        if generator == "start" and adapter is None:
            raise ValueError(
                "data.generator=start: there is no adapter to start from; give adapter=FOLDER, or data.generator=base"
            )

    def check(self, setting: Setting) -> None:
        """ValueError unless the model's videos are of the world's size."""
        require_world(setting.spec, f"data={self.name}", self.instead)

    def prepare(self, policy: "WanPolicy") -> Split:
        """Generates what the cache lacks; any number of processes may ask at once, one of them builds."""
        folder = self.folder(policy)
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        with FileLock(folder / "lock"), policy.whole(), self.generating(policy), policy.evaluating():
            return self.build(policy, folder)

    def generating(self, policy: "WanPolicy") -> AbstractContextManager:
        return policy.using(None) if self.generator == "base" else policy.reference()

    def folder(self, policy: "WanPolicy") -> Path:
        """Of what is made, by everything that it depends on."""
        key = [
            policy.base_hash,
            policy.fingerprint,
            self.model.shift,
            self.model.num_inference_steps,
            self.split,
            self.seed,
        ]
        key += [type(self.guidance).__name__, vars(self.guidance), self.batch_size]
        if self.generator == "start":
            key.append(adapter_hash(Path(self.adapter)))
        return self.cache_dir / f"{self.name}-{hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:16]}"

    def batches(self, policy: "WanPolicy", folder: Path, bar: Lines) -> Iterator:
        """What `make` returned of one batch after another, those of earlier runs from the disk if all their files are
        whole.

        RuntimeError once far more conditions were tried than `bar` counts finds.
        """
        batch, checksums = 0, Checksums(folder, "world")
        while True:
            yield self.batch(policy, folder, batch, checksums)
            batch += 1
            if batch * self.batch_size > MAX_CONDITIONS_PER_VIDEO * (bar.n + 1):
                raise RuntimeError(
                    f"{batch * self.batch_size} conditions gave {bar.n} of {bar.total} for data={self.name}: "
                    f"{self.model.path} under "
                    f"this guidance is too good or too bad for it; {self.hint}"
                )

    def batch(self, policy: "WanPolicy", folder: Path, batch: int, checksums: Checksums):
        """What `make` returned of a batch, whose files are whole; made anew if they are not."""
        done = folder / f"batch_{batch:05d}.json"
        made = load_or_make(done, lambda: self.make(policy, folder, batch), checksums)
        if wrong := next(((name, found) for name in made if (found := flaw(folder / name, checksums))), None):
            print(f"{folder / wrong[0]}: {wrong[1]}; its batch is made anew", flush=True)
            made = self.make(policy, folder, batch)
            for name in made:
                checksums.record(folder / name)
        return made

    @abstractmethod
    def build(self, policy: "WanPolicy", folder: Path) -> Split:
        """The data set of the first batches that hold enough."""

    @abstractmethod
    def make(self, policy: "WanPolicy", folder: Path, batch: int):
        """Generates a batch, saves what is of use in `folder` and returns its list, as JSON holds it."""


def row_tensors(videos: dict[str, torch.Tensor], cond: Condition, i: int) -> dict[str, torch.Tensor]:
    """What a cache file holds of condition i and its videos' latents (see `apo.data.cache.LatentCache`)."""
    tensors = videos | {"text": cond.text[i], "image": cond.image[i], "frame": cond.frame[i]}
    if cond.image_embeds is not None:
        tensors["image_embeds"] = cond.image_embeds[i]
    return {key: value.contiguous().clone() for key, value in tensors.items()}
