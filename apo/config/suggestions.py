"""What to say of a key that is not there, or that nothing takes: the closest ones, or the options of its group."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from apo.places import CONFIG_ROOTS

HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")  # keys of instantiate itself


def remedy(key: str) -> str:
    """For a key that has to be there."""
    there = options(key)
    return f"choose {key}=OPTION among {', '.join(there)}" if there else f"add {key}=... to the command"


def options(group: str) -> list[str]:
    """Of a config group; none if there is no such group."""
    folders = [folder / group for folder in CONFIG_ROOTS] if re.fullmatch(r"[\w/]+", group) else []
    return sorted(file.stem for folder in folders for file in folder.glob("*.yaml"))


def unresolved(key: str, text: str, error: OmegaConfBaseException) -> str:
    """Of an interpolation that leads nowhere."""
    said = str(error).splitlines()[0]
    if found := re.search(r"Interpolation key '(.+)' not found", said):
        return f"{key}={text}: {found[1]} is not set: {remedy(found[1])}"
    return f"{key}={text}: {said}"


def keys(node: DictConfig, prefix: str = "") -> list[str]:
    """All dotted keys, those of an interpolated group only where it stands."""
    found = []
    for name in node:
        found.append(f"{prefix}{name}")
        if (
            not OmegaConf.is_interpolation(node, name)
            and isinstance(below := node._get_node(name), DictConfig)
            and not below._is_none()
        ):
            found += keys(below, f"{prefix}{name}.")
    return [key for key in found if key.rpartition(".")[2] not in HYDRAS]


def unknown(key: str, known: Sequence[str], here: Sequence[str] = ()) -> str:
    """What to say of a key that nothing takes. known: all keys; here: those that may stand in its place."""
    near = (closest(key, here) if "." in key else []) or closest(key, [*here, *(name for name in known if name != key)])
    if near:
        return f"{key}: there is no such setting; did you mean {' or '.join(near)}?"
    group = key.rpartition(".")[0]
    beside = [name for name in (here or known) if group and name.rpartition(".")[0] == group][:8]
    there = f"there are {', '.join(beside)}" if beside else "leave it out; --cfg job shows those there are"
    others = options(group) if group else []
    choose = f"; or choose {group}=OPTION among {', '.join(others)}" if others else ""
    return f"{key}: there is no such setting; {there}{choose}"


def closest(key: str, known: Sequence[str]) -> list[str]:
    """Up to three known keys: with the same last name, or one that holds it, or its initials, or one that looks like
    it.
    """
    last = key.rpartition(".")[2]
    initials = "".join(word[:1] for word in last.split("_"))
    names = {name: name.rpartition(".")[2] for name in known}
    same = [name for name, end in names.items() if end == last]
    longer = [name for name, end in names.items() if last in end.split("_") or (end == initials != last)]
    alike = get_close_matches(last, list(names.values()), 3, 0.7)
    found = same or longer or [name for name, end in names.items() if end in alike]
    return list(dict.fromkeys(sorted(found, key=lambda name: name.count("."))))[:3]
