"""Trains one stage: `python train.py stage=offline sampler=apo`. Run again, the same command continues."""

from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from apo.checks import check
from apo.config import sweep
from apo.config.help import answer_help
from apo.config.overrides import hydra_in_one_line
from apo.errors import one_line
from apo.io.lock import holding
from apo.places import CONF
from apo.terminal import recorded


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def run(cfg: DictConfig) -> None:
    config = HydraConfig.get()
    folder = Path(config.runtime.output_dir)

    def job() -> None:
        with (
            one_line("config"),
            holding(folder, "wait for it, stop it, or give another run=NAME"),
            recorded(folder / "train.log"),
        ):
            check(cfg, folder)
            from apo.run import train  # Lightning and diffusers take seconds: mistakes are found before

            train(cfg, folder)

    sweep.run(job) if sweep.is_parallel(config) else job()


def main() -> None:
    answer_help("train.py", CONF / "train.yaml")
    with one_line("config"), hydra_in_one_line("config", "train"):
        run()


if __name__ == "__main__":
    main()
