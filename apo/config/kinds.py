"""Whether a value is of the kind that an annotation says, and what to give instead."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import OmegaConf

from apo.config.numbers import Null, Range
from apo.config.signatures import Part

SHARES = {  # whether 0 is left out, whether 1 is
    (False, False): "a share, from 0 to 1",
    (False, True): "a share, from 0, below 1",
    (True, False): "a share above 0, up to 1",
    (True, True): "a share above 0 and below 1",
}


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
