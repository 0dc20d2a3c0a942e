"""What the commands of apo.data have in common: train.py's config, from the same overrides."""

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig

from apo.config.overrides import composed as checked
from apo.config.validation import check_values
from apo.errors import UserError
from apo.policies.model import WanModel


def composed(overrides: list[str]) -> DictConfig:
    """train.py's config; UserError for what is wrong with the overrides and their values."""
    cfg = checked("train", overrides)
    check_values(cfg, "Training")
    return cfg


def built(node: DictConfig):
    """What a part of the config describes; UserError for what its constructor refuses."""
    try:
        return instantiate(node)
    except (HydraException, ValueError) as error:  # hydra wraps what a constructor raises
        raise UserError(str(error.__cause__ or error)) from error


def model_of(overrides: list[str]) -> WanModel:
    """The model whose videos are asked for; it need not be on this disk."""
    return built(composed(overrides).model)
