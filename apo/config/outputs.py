"""Names of folders in outputs/: what a command is given as run=, stage= or results= can't lead out of it."""

import os
import re
import tempfile
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from apo.errors import UserError, one_line

OUTPUTS = Path("outputs")
PLAIN = re.compile(r"[^\s./\\~\x00-\x1f][^/\\\x00-\x1f]*")  # no separators, nothing hidden, no . or ..
ROOM = 1 << 16  # bytes, for what is written before training
LONGEST = 255  # bytes of a name, on the common file systems
OWN = {
    "adapter",
    "checkpoints",
    "samples",
    "videos",
    "wandb",
    "config.yaml",
    "metrics.csv",
    "start.json",
    "train.log",
}  # a run folder's


def plain_name(key: str, value, deep: bool = False) -> str:
    """The folder's name that a setting holds; UserError if it is none. deep: names joined by slashes will do, too."""
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    names = text.split("/") if deep else [text]
    if all(PLAIN.fullmatch(name) and len(os.fsencode(name)) <= LONGEST for name in names):
        return text
    shown = "null" if value is None else repr(value) if text != value or not text.isprintable() else text
    kind = "a path below outputs/" if deep else "one folder's name"
    raise UserError(f"{key}={shown}: give {kind}, without '..', '~' and '\\', that does not begin with '/' or '.'")


def require_inside(path: Path, root: Path, said: str) -> None:
    """UserError if links lead `path` out of `root`."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{said}: {path} leads to {path.resolve()}, outside {root}: give another name, or remove the link"
        )


def run_folder(run) -> Path:
    """outputs/<run>; UserError if that is no folder there."""
    folder = OUTPUTS / plain_name("run", run, deep=True)
    require_inside(folder, OUTPUTS, f"run={run}")
    return folder


def results_name(results) -> str:
    """UserError unless it is a name of its own in a run folder."""
    name = plain_name("results", results)
    if name in OWN:
        raise UserError(
            f"results={name}: {name} is the training's in a run folder: give another name, such as eval_{name}"
        )
    return name


def require_writable(folder: Path) -> None:
    """OSError that names the folder unless it can be written to. Hydra, which writes there first, would show a
    traceback.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there, buffering=0) as file:
            file.write(bytes(ROOM))
    except OSError as error:
        error.filename = str(folder)
        raise


class Inside(Callback):
    """Hydra asks it before any folder is made: ends the command unless what it computes stays in outputs/.

    A hydra.run.dir or hydra.sweep.dir on the command line is the user's own word, where `own_folder` allows one.
    """

    def __init__(self, command: str, own_folder: bool):
        self.command, self.own_folder = command, own_folder

    def on_run_start(self, config: DictConfig, **_) -> None:
        with one_line(self.command):
            self.check(config, config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        with one_line(self.command):
            self.check(config, config.hydra.sweep.dir)
            for override in OverridesParser.create().parse_overrides(list(config.hydra.overrides.task)):
                if override.key_or_group == "run" and override.is_sweep_override():
                    for run in override.sweep_string_iterator():
                        run_folder(run.strip("'\""))

    def on_job_start(self, config: DictConfig, **_) -> None:
        with one_line(self.command):
            self.check(config, config.hydra.runtime.output_dir)

    def check(self, config: DictConfig, folder: str) -> None:
        given = [word for word in config.hydra.overrides.hydra if re.match(r"\+*hydra\.(run|sweep)\.(sub)?dir=", word)]
        if given and not self.own_folder:
            raise UserError(
                f"{given[0]}: results go to outputs/<run>/<stage>/<results>: give run=, stage= and results="
            )
        run_folder(config.run)
        if not given and self.own_folder:
            require_inside(Path(folder), OUTPUTS, "the run folder")
        if self.own_folder:
            require_writable(Path(folder))
