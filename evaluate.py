"""Evaluates a stage on held-out conditions: `python evaluate.py run=<run> stage=<stage>`; stage=null is the baseline."""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from apo.evaluation import EvaluationError, evaluate

    try:
        evaluate(cfg)
    except EvaluationError as error:
        sys.exit(f"evaluate: {error}")


if __name__ == "__main__":
    main()
