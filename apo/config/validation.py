"""Holds a config against what takes it: each value against its type, each key against the known ones.
Imports no torch.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, get_args, get_origin

from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from apo.config.kinds import asked, fits, is_part, members, notes, shown
from apo.config.numbers import Filled
from apo.config.signatures import Parameter, Part, Signature, defined, is_package, signature, source
from apo.config.suggestions import HYDRAS, keys, remedy, unknown, unresolved
from apo.errors import UserError
from apo.places import CONF, EVALUATION

SCHEMAS = "apo.config.settings"
FILES = {"Training": CONF / "train.yaml", "Planning": CONF / "train.yaml", "Evaluating": EVALUATION / "evaluate.yaml"}
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
    """Of a value, which may be an interpolation: then of what it stands for, but not of all below, which is checked
    where it stands.
    """
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
    """Where the value of an interpolation stands, if that is a top-level key which is of no kind of its own; else
    `key`.
    """
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
