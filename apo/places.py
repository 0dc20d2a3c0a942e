"""Where the project's own files lie: beside the package in a checkout, inside it once it is installed from a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).parent
ROOT = PACKAGE.parent  # relative paths of models may start here
INSTALLED = (PACKAGE / "conf").is_dir()
HOME = PACKAGE if INSTALLED else ROOT  # of conf/ and experiments/
CONF = HOME / "conf"
EXPERIMENTS = HOME / "experiments"


def program(name: str) -> list[str]:
    """What follows `python` to run train or evaluate from any folder: the script of the checkout, or the installed module."""
    return ["-m", f"apo.{name}"] if INSTALLED else [str(ROOT / f"{name}.py")]
