"""Holds a config against what takes it: each value against its type, each key against the known ones. Imports no torch."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from apo.config.numbers import Filled, Null, Range
from apo.config.signatures import Parameter, Part, Signature, defined, is_package, signature, source
from apo.errors import UserError
from apo.places import CONF, CONFIG_ROOTS, EVALUATION

SCHEMAS = "apo.config.settings"
FILES = {"Training": CONF / "train.yaml", "Planning": CONF / "train.yaml", "Evaluating": EVALUATION / "evaluate.yaml"}
HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")  # keys of instantiate itself
SHARES = {  # whether 0 is left out, whether 1 is
    (False, False): "a share, from 0 to 1",
    (False, True): "a share, from 0, below 1",
    (True, False): "a share above 0, up to 1",
    (True, True): "a share above 0 and below 1",
}
REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)")


class Problem(NamedTuple):
    message: str
    borrowed: bool  # the value stands elsewhere, where it may be a problem of its own


def check_values(cfg: DictConfig, schema: str) -> None:
    """UserError for the first value that can't be what it is, or key that nothing takes; names it and the remedy.

    schema: the class of `apo.config.settings` with the config's own keys.
    """
    own = signature(f"{SCHEMAS}.{schema}")
    found = of_fields(cfg, "", own, {*referred(cfg), *written(schema)})
    if first := min(found, key=lambda problem: problem.borrowed, default=None):
        raise UserError(first.message)


@cache
def written(schema: str) -> frozenset[str]:
    """The top-level keys of the file that a schema is of."""
    return frozenset(OmegaConf.load(FILES[schema]))


def referred(cfg: DictConfig) -> set[str]:
    """The top-level keys that an interpolation names."""
    return {name.partition(".")[0] for name in REFERENCE.findall(OmegaConf.to_yaml(cfg))}


def of_node(node: Any, key: str, kind: Any) -> Iterator[Problem]:
    """Of what stands at `key`, and of all below it."""
    if isinstance(node, DictConfig):
        yield from of_mapping(node, key, kind)
    elif isinstance(node, ListConfig):
        yield from of_list(node, key, kind)
    elif not fits(node, kind):
        yield Problem(f"{key}={shown(node)}: give {asked(kind, node)}", False)


def of_mapping(node: DictConfig, key: str, kind: Any) -> Iterator[Problem]:
    part = next((member for member in members(kind) if is_part(member)), None)
    if (target := node.get("_target_")) is not None:
        if not exists(target):
            yield Problem(f"{key}._target_={shown(target)}: there is no such class", False)
            return
        yield from of_fields(node, key, narrowed(signature(target) or Signature({}, open=True), part))
    elif part is not None:
        if part.target == f"{SCHEMAS}.Part":
            yield Problem(f"{key}._target_ is not set: a group names the class that it builds", False)
        else:  # of a class elsewhere nothing is known: it may be no class of settings
            own = signature(part.target) if part.target.startswith("apo.") else None
            yield from of_fields(node, key, own or Signature({}, open=True))
    elif any(m is Any or m is dict or get_origin(m) in (dict, Mapping) for m in members(kind)):
        of = next((get_args(m)[1] for m in members(kind) if len(get_args(m)) == 2), Any)
        for name in node:
            yield from of_child(node, name, f"{key}.{name}", of)
    else:
        yield Problem(f"{key}={shown(node)}: give {asked(kind, node)}", False)


def exists(target: Any) -> bool:
    """False for what is surely no class or function; what has no Python source may be one."""
    if not isinstance(target, str) or not is_package(target.partition(".")[0]):
        return False
    return defined(target) is not None or source(target.rpartition(".")[0]) is None


def narrowed(taken: Signature, part: type[Part] | None) -> Signature:
    """What a class takes, with the types that `apo.config.settings` has of it: where it is not ours, those say more."""
    if part is None or not part.target.startswith(SCHEMAS):
        return taken
    ours = signature(part.target).parameters
    return Signature(
        {name: Parameter(ours.get(name, p).kind, p.required) for name, p in taken.parameters.items()}, taken.open
    )


def of_fields(node: DictConfig, key: str, taken: Signature, extra: set[str] = frozenset()) -> Iterator[Problem]:
    """Of the keys of a mapping that `taken` takes. extra: keys that may stand there, too."""
    prefix = f"{key}." if key else ""
    given = [name for name in node if name not in HYDRAS]
    for name in given:
        if name in taken.parameters:
            yield from of_child(node, name, prefix + name, taken.parameters[name].kind)
        elif name in extra and isinstance(node._get_node(name), AnyNode):
            continue  # it is looked at where it goes to
        elif taken.open or name in extra:
            yield from of_child(node, name, prefix + name, Any)
        else:
            yield Problem(
                unknown(prefix + name, keys(node._get_root()), [prefix + known for known in taken.parameters]), False
            )
    if not node.get("_partial_"):
        for name, parameter in taken.parameters.items():
            if parameter.required and name not in given:
                yield Problem(f"{prefix}{name} is not set: {remedy(prefix + name)}", False)


def of_child(node: DictConfig, name: str, key: str, kind: Any) -> Iterator[Problem]:
    """Of a value, which may be an interpolation: then of what it stands for, but not of all below, which is checked where it stands."""
    borrowed = OmegaConf.is_interpolation(node, name)
    if OmegaConf.is_missing(node, name):
        yield Problem(f"{key} is not set: add {key}=... to the command", borrowed)
        return
    try:
        value = node[name]
    except OmegaConfBaseException as error:
        yield Problem(unresolved(key, node._get_node(name)._value(), error), True)
        return
    if not borrowed:
        yield from of_node(value, key, kind)
    elif not OmegaConf.is_config(value) and not fits(value, kind):
        yield Problem(f"{origin(node, name, key)}={shown(value)}: give {asked(kind, value)}", True)


def origin(node: DictConfig | ListConfig, name: str | int, key: str) -> str:
    """Where the value of an interpolation stands, if that is a top-level key which is of no kind of its own; else `key`."""
    found = REFERENCE.match(str(node._get_node(name)._value()))
    stands = found[1] if found else ""
    typed = signature(f"{SCHEMAS}.Training").parameters
    return stands if stands in node._get_root() and stands not in typed else key


def of_list(node: ListConfig, key: str, kind: Any) -> Iterator[Problem]:
    taking = next((m for m in members(kind) if m is Any or get_origin(m) in (list, tuple, Sequence)), None)
    of = [part for part in get_args(taking) if part is not ...]
    if taking is None or (get_origin(taking) is tuple and ... not in get_args(taking) and len(of) != len(node)):
        yield Problem(f"{key}={shown(node)}: give {asked(kind, node)}", False)
    elif not len(node) and any(isinstance(note, Filled) for note in notes(kind)):
        yield Problem(f"{key}=[]: give at least one", False)
    else:
        for i in range(len(node)):
            yield from of_child(
                node, i, f"{key}[{i}]", of[i if get_origin(taking) is tuple and len(of) > 1 else 0] if of else Any
            )


def members(kind: Any) -> list[Any]:
    """The alternatives of a type; those of Annotated with their notes."""
    if get_origin(kind) in (Union, UnionType):
        return [member for part in get_args(kind) for member in members(part)]
    if get_origin(kind) is Annotated and not isinstance(get_args(kind)[0], type):
        return members(get_args(kind)[0])
    return [kind]


def notes(kind: Any) -> tuple:
    return get_args(kind)[1:] if get_origin(kind) is Annotated else ()


def plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Part)


def fits(value: Any, kind: Any) -> bool:
    """Whether a single value is of a type."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return any(fits_one(value, member) for member in members(kind))


def fits_one(value: Any, kind: Any) -> bool:
    base = plain(kind)
    if base is Any:
        return True
    if is_part(base):
        return not base.target.startswith("apo.")  # a class elsewhere may be an alias of a number or a text
    if get_origin(base) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(base))
    types = {bool: bool, int: int, float: int | float, str: str, Path: str, NoneType: NoneType, None: NoneType}.get(
        base
    )
    if types is None or not isinstance(value, types) or (isinstance(value, bool) and base is not bool):
        return False
    return all(note.holds(value) if isinstance(note, Range) else value != "" for note in notes(kind))


def asked(kind: Any, value: Any) -> str:
    """What to give instead of a value."""
    words = {member: describe(member, value) for member in members(kind) if plain(member) not in (None, NoneType)}
    null = next((note.means for note in notes(kind) if isinstance(note, Null)), "")
    or_null = [f"null {null}".strip()] if any(plain(m) in (None, NoneType) for m in members(kind)) else []
    return ", or ".join([*dict.fromkeys(words.values()), *or_null])


def describe(kind: Any, value: Any) -> str:
    base, limits = plain(kind), next((note for note in notes(kind) if isinstance(note, Range)), None)
    if base in (int, float):
        return number(base, limits or Range(), value)
    if get_origin(base) is Literal:
        choices = list(map(str, get_args(base)))
        return " or ".join(choices) if len(choices) < 3 else f"one of {', '.join(choices)}"
    if is_part(base) or base in (dict, Callable) or get_origin(base) in (dict, Mapping, Callable):
        return "a group of settings"
    if get_origin(base) in (list, tuple, Sequence):
        fixed = get_origin(base) is tuple and ... not in get_args(base)
        return (
            f"a list of {len(get_args(base))}" if fixed else "a list"
        ) + f": [{describe(get_args(base)[0], None)}, ...]"
    return {bool: "true or false", str: "a text", Path: "a path"}.get(base, "something else")


def number(base: type, limits: Range, value: Any) -> str:
    if base is float and (limits.low, limits.high) == (0, 1):
        return SHARES[limits.above, limits.below]
    word = "a whole number" if base is int else "a number"
    if isinstance(value, int | float) and limits.high < value < math.inf:
        return f"{word} of at most {limits.high:,}"
    if limits.above:
        return f"{word} above {limits.low:g}"
    return f"{word} of at least {limits.low:g}" if limits.low > -1e30 else word


def shown(value: Any) -> str:
    if OmegaConf.is_config(value):
        text = str(OmegaConf.to_container(value))
    else:
        text = (
            {None: "null", True: "true", False: "false"}.get(value, str(value))
            if isinstance(value, bool | None)
            else str(value)
        )
    return text if len(text) <= 80 else f"{text[:77]}..."


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
    """Up to three known keys: with the same last name, or one that holds it, or its initials, or one that looks like it."""
    last = key.rpartition(".")[2]
    initials = "".join(word[:1] for word in last.split("_"))
    names = {name: name.rpartition(".")[2] for name in known}
    same = [name for name, end in names.items() if end == last]
    longer = [name for name, end in names.items() if last in end.split("_") or (end == initials != last)]
    alike = get_close_matches(last, list(names.values()), 3, 0.7)
    found = same or longer or [name for name, end in names.items() if end in alike]
    return list(dict.fromkeys(sorted(found, key=lambda name: name.count("."))))[:3]
