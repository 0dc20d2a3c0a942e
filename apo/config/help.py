"""What `python train.py --help` prints: every group, option and key with a line on what it is for.

The lines stand in the YAML files: an option's is its first comment, a group's and a key's the comment beside it in the
command's config. Nothing is composed and no torch is imported: it takes a tenth of a second.
"""

import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from apo.places import CONFIG_ROOTS, EVALUATION, INSTALLED

DEFAULT = re.compile(r"^  - ([\w/]+): (\w+)(?: # (.+))?$", re.M)
KEY = re.compile(r"^(\w+): ([^#\n]+?)(?: # (.+))?$", re.M)
COMMAND = re.compile(r" `python [^`]*`$")
ELSEWHERE = {  # groups that no config selects
    "hydra/launcher": "where the runs of -m go: a SLURM cluster; joblib runs them side by side on this machine",
    "plan": "the GPUs that `python -m apo.plan` plans for",
    "study": "experiments of many runs, for `python -m apo.study`",
}
LAST = """* is the default. `--cfg job` prints the whole config of a command, `--info` where it comes from,
`--hydra-help` Hydra's own flags. `-m` runs every combination of values that commas separate.
The tab key completes groups and options after: eval "$({command} -sc install=bash)\""""


@dataclass(frozen=True)
class Group:
    name: str
    about: str
    chosen: str | None
    options: dict[str, str]  # name -> what it is for


def first_comment(path: Path) -> str:
    """The first comment line of a YAML file, without a command at its end; empty if it begins with something else."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if (text := line.lstrip("# ")) and not text.startswith("@package"):
            return COMMAND.sub("", text)
    return ""


def options(group: str) -> dict[str, str]:
    files = [(folder / group, path) for folder in CONFIG_ROOTS for path in sorted((folder / group).rglob("*.yaml"))]
    return {str(path.relative_to(folder).with_suffix("")): first_comment(path) for folder, path in files}


def groups(config: Path) -> list[Group]:
    """Those of a config's defaults list."""
    found = DEFAULT.findall(config.read_text(encoding="utf-8"))
    return [Group(name, about, None if chosen == "null" else chosen, options(name)) for name, chosen, about in found]


def elsewhere() -> list[Group]:
    return [Group(name, about, None, found) for name, about in ELSEWHERE.items() if (found := options(name))]


def bases(known: Sequence[Group]) -> list[Group]:
    """Folders that are no group of a command: options select them."""
    folders = {path for folder in CONFIG_ROOTS for path in folder.iterdir() if path.is_dir()}
    names = {path.name for path in folders.difference(CONFIG_ROOTS)} - {group.name for group in known}
    return [
        Group(name, "shared parts that other options select", None, found)
        for name in sorted(names)
        if (found := bare(name))
    ]


def bare(name: str) -> dict[str, str]:
    return {} if name == "hydra" else options(name)


def listed(config: Path) -> list[Group]:
    """What the help of a command shows. train.py's shows all there is, what is in no defaults list, too."""
    own = groups(config)
    if config.stem != "train":
        return own
    return own + elsewhere() + bases([*own, *elsewhere(), *groups(EVALUATION / "evaluate.yaml")])


def text(command: str, config: Path) -> str:
    usage = f"{typed(command)} [group=option ...] [key=value ...]\n\n{first_comment(config)}"
    keys = [wrapped(f"  {key}={value}", about) for key, value, about in KEY.findall(config.read_text(encoding="utf-8"))]
    parts = [
        usage,
        *("\n".join(lines(group)) for group in listed(config)),
        "\n".join(["keys", *keys]),
        LAST.format(command=typed(command)),
    ]
    return "\n\n".join(parts)


def typed(command: str) -> str:
    """What the user types instead of `train.py`."""
    return f"apo-{Path(command).stem}" if INSTALLED else f"python {command}"


def lines(group: Group) -> Iterator[str]:
    yield f"{group.name}: {group.about}"
    for name, about in group.options.items():
        yield wrapped(f"  {name}{' *' * (name == group.chosen)}", about)


def wrapped(name: str, about: str) -> str:
    width = max(shutil.get_terminal_size((120, 0)).columns, 60)
    return textwrap.fill(about, width, initial_indent=f"{name:26} ", subsequent_indent=" " * 27) if about else name


def answer_help(command: str, config: Path) -> None:
    """Ends the process with the help if the command line asks for it."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as `head` may have enough before the end
        print(text(command, config))
        sys.exit()
