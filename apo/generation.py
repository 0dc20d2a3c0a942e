"""The videos of arms on held-out conditions, from the same noise for all; latents are kept on disk."""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from apo import quiet  # isort: skip
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from apo.adapter import lineage
from apo.config.outputs import results_name
from apo.distributed import device
from apo.errors import UserError
from apo.interfaces import Condition
from apo.io.checksums import Checksums
from apo.io.files import write_tensors
from apo.policies.adapter import adapter_hash, adapter_settings
from apo.runs import Arm
from apo.solvers.ode import generate, initial_noise
from apo.terminal import progress

if TYPE_CHECKING:
    from apo.policies.wan import WanPolicy

SPARE = {
    "rank": 1,
    "alpha": 1,
    "targets": ["to_q"],
}  # of a policy that has loaded no adapter yet: the baseline needs none


class Generation:
    """Generates the conditions of an evaluation, one arm after another over one copy of the base weights.

    cfg: as conf/evaluation/evaluate.yaml; model, guidance, conditions, seed, batch_size and trainer say what and how.
    Latents are kept in each arm's results folder, so that an interrupted evaluation goes on.
    """

    def __init__(self, cfg: DictConfig):
        self.cfg, self.guidance, self.conditions = cfg, instantiate(cfg.guidance), instantiate(cfg.conditions)
        self.results = results_name(self.conditions.results if cfg.results is None else cfg.results)
        self.policy, self.settings, self.loaded = None, None, None

    def key(self, arm: Arm) -> dict:
        """All that an arm's videos depend on."""
        plain = OmegaConf.to_container(self.cfg, resolve=True)
        key = {name: plain[name] for name in ("model", "guidance", "conditions", "seed", "batch_size")}
        adapter = "none" if arm.adapter is None else adapter_hash(arm.adapter)
        return key | {"adapter": adapter, "identity": self.conditions.identity}

    def folder(self, arm: Arm) -> Path:
        """Of the arm's latents, named by their key."""
        return arm.folder / self.results / f"latents-{digest(self.key(arm))}"

    def batches(self, arm: Arm, label: str) -> Iterator[tuple[Tensor, Condition]]:
        """(videos (B, frames, 3, height, width) uint8, their conditions) of one batch after another; `label` is of the
        progress bar.
        """
        count, size, folder, policy = len(self.conditions), self.cfg.batch_size, self.folder(arm), self.load(arm)
        for start in progress(range(0, count, size), label):
            cond = policy.encode_condition(*self.conditions.batch(start, min(start + size, count)))
            yield policy.decode(self.batch(arm, folder, start, cond)), cond

    def videos(self, arm: Arm, places: Sequence[int]) -> Tensor:
        """(len(places), frames, 3, height, width) uint8 of some conditions."""
        policy, size = self.load(arm), self.cfg.batch_size
        return torch.cat([policy.decode(part).cpu() for part in self.latents(arm, places).split(size)])

    def latents(self, arm: Arm, places: Sequence[int]) -> Tensor:
        """(len(places), C, F, H, W) of some conditions."""
        size, folder = self.cfg.batch_size, self.folder(arm)
        parts = {start: self.batch(arm, folder, start) for start in sorted({i // size * size for i in places})}
        return torch.stack([parts[i // size * size][i % size] for i in places])

    def batch(self, arm: Arm, folder: Path, start: int, cond: Condition | None = None) -> Tensor:
        """Latents (B, C, F, H, W) of the batch that begins at condition `start`: from disk if they are whole there."""
        stop = min(start + self.cfg.batch_size, len(self.conditions))
        path = folder / f"{start:06d}.safetensors"
        if (kept := whole_latents(path, stop - start)) is not None:
            return kept
        with self.policy_of(arm) as policy:
            cond = cond or policy.encode_condition(*self.conditions.batch(start, stop))
            noise = initial_noise(policy, [self.cfg.seed * 10**6 + i for i in range(start, stop)])
            latents = generate(policy, self.guidance, cond, noise)
        if not latents.isfinite().all():
            raise UserError(
                f"{arm.name}: what it generates from conditions {start} to {stop - 1} is not finite: look for NaN in "
                "its adapter "
                f"and {self.cfg.model.path}, try model.dtype=float32, or lower the guidance"
            )
        write_tensors(path, {"latents": latents})
        Checksums(path.parent, "written").record(path)
        return latents

    @contextmanager
    def policy_of(self, arm: Arm) -> Iterator["WanPolicy"]:
        """Inside, the policy is the arm."""
        policy = self.load(arm)
        with policy.using(None) if arm.adapter is None else nullcontext():
            yield policy

    def load(self, arm: Arm) -> "WanPolicy":
        """The policy with the arm's adapter in it; base weights are read once for all arms with one LoRA layout."""
        if arm == self.loaded:
            return self.policy
        from apo.policies.sampling import sampling_policy  # diffusers takes seconds

        quiet.silence()
        settings = adapter_settings(arm.adapter) if arm.adapter else self.settings or SPARE
        if settings != self.settings:
            self.policy = sampling_policy(instantiate(self.cfg.model), settings, self.cfg.trainer.offload)
            self.policy.to(device(self.cfg.trainer.accelerator, 0))
            self.settings = settings
        if arm.adapter:  # checked again: a model of the hub has been downloaded only now
            lineage.require_base(arm.adapter, self.policy.model.path, self.policy.base_hash)
            self.policy.load_adapter(arm.adapter)
        self.loaded = arm
        return self.policy


def digest(key: dict) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def whole_latents(path: Path, count: int) -> Tensor | None:
    """(count, C, F, H, W) of a file; None if it is not there, or damaged, which is printed."""
    if not path.is_file():
        return None
    try:
        latents = load_file(path)["latents"] if Checksums(path.parent, "written").holds(path) else None
    except (SafetensorError, KeyError):
        latents = None
    if latents is None or len(latents) != count or not latents.isfinite().all():
        print(f"damaged, made anew: {path}", file=sys.stderr)
        return None
    return latents
