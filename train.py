"""Trains one stage: `python train.py stage=offline sampler=apo`. Run again, the same command continues."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from apo.errors import one_line
from apo.lock import holding


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    folder = Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir)
    with one_line("config"), holding(folder, "wait for it, stop it, or give another run=NAME"):
        from apo.checks import check

        check(cfg, folder)
        from apo.run import train  # Lightning and diffusers take seconds: mistakes are found before

        train(cfg, folder)


if __name__ == "__main__":
    main()
