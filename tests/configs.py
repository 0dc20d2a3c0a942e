"""Configs of the repository's own, composed in this process."""

from omegaconf import DictConfig

from apo.config.compose import compose


def composed(*overrides: str, name: str = "train") -> DictConfig:
    return compose(name, overrides)
