"""Configs of the repository's own, composed in this process."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tests.commands import ROOT


def composed(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, list(overrides))
