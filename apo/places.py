"""Where the project's own files lie: beside the package in a checkout, inside it once it is installed from a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).parent
ROOT = PACKAGE.parent  # relative paths of models may start here
INSTALLED = (PACKAGE / "conf").is_dir()
HOME = PACKAGE if INSTALLED else ROOT  # of conf/ and experiments/
CONF = HOME / "conf"  # of train.py
EVALUATION = (
    CONF / "evaluation"
)  # of evaluate.py, which sees these groups and those of COMMON: `stage=` is a plain key there
COMMON = CONF / "common"
EXPERIMENTS = HOME / "experiments"
CONFIG_ROOTS = (CONF, COMMON, EVALUATION, EXPERIMENTS)  # folders whose folders are config groups


def program(name: str) -> list[str]:
    """What follows `python` to run train or evaluate from any folder: the script of the checkout, or the installed
    module.
    """
    return ["-m", f"apo.{name}"] if INSTALLED else [str(ROOT / f"{name}.py")]
