"""The configs of train.py and evaluate.py, composed in any process and from any working directory."""

import os
from collections.abc import Sequence

import hydra
from hydra import initialize_config_dir
from omegaconf import DictConfig

from apo.places import CONF, EVALUATION, HOME

FOLDERS = {"train": CONF, "evaluate": EVALUATION}
os.environ["APO_ROOT"] = str(HOME)  # where the search paths in train.yaml and evaluate.yaml begin


def compose(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Hydra's errors as they are; `apo.config.overrides.composed` has them in one line."""
    with initialize_config_dir(str(FOLDERS[name]), version_base="1.3"):
        return hydra.compose(name, list(overrides))
