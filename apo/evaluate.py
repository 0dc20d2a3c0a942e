"""Evaluates a stage on held-out conditions: `python evaluate.py run=<run> stage=<stage>`; stage=null is
the baseline.
"""

import apo.quiet  # noqa: F401  isort: skip
import hydra
from omegaconf import DictConfig

from apo.config.help import answer_help
from apo.config.overrides import hydra_in_one_line
from apo.errors import one_line
from apo.places import EVALUATION


@hydra.main(version_base="1.3", config_path=str(EVALUATION), config_name="evaluate")
def run(cfg: DictConfig) -> None:
    with one_line("evaluate"):
        from apo.evaluation import evaluate  # torch and diffusers take seconds

        evaluate(cfg)


def main() -> None:
    answer_help("evaluate.py", EVALUATION / "evaluate.yaml")
    with one_line("evaluate"), hydra_in_one_line("evaluate", "evaluate"):
        run()


if __name__ == "__main__":
    main()
