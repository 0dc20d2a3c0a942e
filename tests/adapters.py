"""Finished adapters of tiny policies, for tests of what is made from them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from omegaconf import OmegaConf

from apo import card
from apo.adapter import lineage
from apo.config.compose import compose
from apo.policies.wan import WanPolicy

ROOT = Path(__file__).parents[1]


def finished(folder: Path, policy: WanPolicy, lora: dict, *overrides: str) -> Path:
    """folder/adapter as train.py leaves it."""
    cfg = compose("train", list(overrides))
    cfg.model = OmegaConf.create(plain(policy.model))
    cfg.policy.lora = OmegaConf.create(lora)
    policy.save_adapter(folder / "adapter")
    made = lineage.of(cfg, folder / "adapter", policy.base_hash, SimpleNamespace(identity=""), lineage.preceding(cfg))
    card.write(folder / "adapter", made)
    lineage.write(folder / "adapter", made)
    return folder / "adapter"


def of_some_effect(policy: WanPolicy) -> WanPolicy:
    """The policy, its adapter moved away from zero."""
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.02
    return policy


def plain(model) -> dict:
    """What conf/common/model would say of a WanModel."""
    fields = {key: value for key, value in vars(replace(model)).items()}
    return fields | {
        "_target_": "apo.policies.model.WanModel",
        "spec": vars(model.spec),
        "lora_targets": list(model.lora_targets),
    }
