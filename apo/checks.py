"""What can be known to be wrong with a run before anything is loaded: each part says it of itself.

Numbers and names are looked at first, which takes no torch.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from apo.config.validation import check_values
from apo.errors import UserError, refused
from apo.parts import Part, Setting

GROUPS = ("stage", "sampler", "guidance", "data")  # looked at whatever is trained
LOADED = ("policy", "optimizer")  # of a module: not built before the model is there


class ConfigError(UserError):
    """A mistake in the config, found before anything is loaded."""


def check(cfg: DictConfig, folder: Path) -> None:
    """ConfigError for what can be known to be wrong before any model is loaded; the whole takes seconds."""
    with refused("the config", ConfigError):
        check_values(cfg, "Training")
    cluster = built(cfg, "trainer")
    with refused("model", ConfigError):
        setting = setting_of(cfg)
    found = {key: built(cfg, key) for key in GROUPS}
    setting = replace(setting, gives=found["data"].gives)
    require_fit({"trainer": cluster} | found, setting)
    with refused("data", ConfigError):
        setting = replace(setting, rows=found["data"].user_rows())
    require_fit({key: built(cfg, key) for key in parts_of_module(cfg)}, setting)
    with refused("the config", ConfigError):
        from apo.resume import require_same_run

        require_same_run(cfg, folder)


def built(cfg: DictConfig, key: str) -> Part:
    with refused(key, ConfigError):
        return instantiate(OmegaConf.select(cfg, key))


def require_fit(parts: dict[str, Part], setting: Setting) -> None:
    for key, part in parts.items():
        with refused(key, ConfigError):
            part.check(setting)


def setting_of(cfg: DictConfig) -> Setting:
    """What parts may ask about, as far as the model is on this disk."""
    from apo.policies.architecture import fitting

    model, trainer = instantiate(cfg.model), cfg.trainer
    model.check()
    return Setting(
        model.spec,
        model=model,
        architecture=fitting(model),
        context_parallel=trainer.context_parallel,
        sharded=trainer.shard is not None,
        cfg=cfg,
    )


def parts_of_module(cfg: DictConfig) -> Iterator[str]:
    """The keys of what the module is made of, but for what takes the weights."""
    for key, value in cfg.module.items():
        if key not in LOADED and OmegaConf.is_config(value) and "_target_" in value:
            yield f"module.{key}"
