"""The training loop around a random policy, for tests: modules, pairs, the rows of a window, and a fit."""

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch

from apo.guidance.cfg_stg import CFGSTG
from apo.guidance.teacher import GuidanceDistillation
from apo.interfaces import Loss, Pair, Row
from apo.losses.distillation import DistillationLoss
from apo.losses.flow_matching import FlowMatchingLoss
from apo.losses.preference import PreferenceLoss
from apo.modules.align import AlignModule
from apo.modules.loggers import MetricsCSV
from apo.modules.window import Window
from apo.objectives.diffusion_dpo import DiffusionDPO
from apo.policies.wan import WanPolicy
from apo.sources.offline import OfflinePairs
from apo.timesteps.apo import APOSampler
from apo.timesteps.uniform import UniformSampler
from tests.policies.test_wan import frame, make

SAMPLER = APOSampler(4, [3, 4, 5, 6], 5, 4, 1, 4, 0.8, 0.9, 0)


def module(request, lr: float = 1e-3, **changes) -> AlignModule:
    """Diffusion-DPO on offline pairs; `changes` of its settings."""
    settings = dict(
        policy=changes.pop("policy", None) or make(request, "wan22"),
        optimizer=lambda p: torch.optim.AdamW(p, lr=lr),
        warmup_steps=1,
        max_grad_norm=1.0,
        seed=0,
        pairs=OfflinePairs(),
        sampler=SAMPLER,
        loss=PreferenceLoss(DiffusionDPO(500)),
        batch_size=2,
        split=0.8,
    )
    return AlignModule(**(settings | changes))


def distilling(request, guidance=None, rejected=True, split_backward=False, **changes) -> AlignModule:
    """A student of the guided policy."""
    teacher = GuidanceDistillation(guidance or CFGSTG(2.0, 2.0, 0.9, 1.0, [1], True), None, None, 0)
    loss, sampler = DistillationLoss(teacher, rejected, split_backward), APOSampler(4, [5], 0, 1, 1, 0, 0.8, 0.9, 0)
    return module(request, 3e-3, **{"loss": loss, "sampler": sampler} | changes)


def fine_tuning(request, rows: int, **changes) -> AlignModule:
    settings = {"loss": FlowMatchingLoss(), "sampler": UniformSampler(rows, 0.9, 0)}
    return module(request, 3e-3, **settings | changes)


def pair_of(policy: WanPolicy, size: int = 2) -> Pair:
    rng = torch.Generator().manual_seed(1)
    latents = [torch.randn(size, *policy.codec.latent_shape, generator=rng) for _ in range(2)]
    return Pair(*latents, policy.encode_condition(["the red"] * size, frame("wan22").expand(size, -1, -1, -1)))


def window(policy: WanPolicy, pair: Pair, sampler=SAMPLER, step: int = 0) -> list[Row]:
    return list(Window(sampler, len(pair.chosen), 0).rows(policy, pair, step))


def backward(loss: Loss, policy: WanPolicy, pair: Pair, rows: list[Row]) -> Iterator[dict[str, torch.Tensor]]:
    """The meters of each part, once it went backward: the loop without its trainer."""
    for row in rows:
        for part in loss(policy, pair, row):
            part.value.backward()
            yield part.meters


def gradients(policy: WanPolicy) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def fit(model: L.LightningModule, pair: Pair, steps: int, folder: Path) -> list[dict]:
    """Metrics of each step."""
    logger = MetricsCSV(str(folder))
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=-1,
    )
    trainer.fit(model, torch.utils.data.DataLoader([pair] * steps, batch_size=None))
    return logger.read()
