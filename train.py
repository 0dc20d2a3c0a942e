"""Trains one stage: `python train.py stage=offline sampler=apo`. Run again, the same command continues."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    from apo.run import ConfigError, train  # torch and diffusers take seconds: config mistakes are found before

    try:
        train(cfg, Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir))
    except ConfigError as error:
        sys.exit(f"config: {error}")


if __name__ == "__main__":
    main()
