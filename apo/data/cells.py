"""What a manifest's cells may hold: the types of a row's fields, and what is wished for where a cell does not fit."""

import json
import re
import reprlib
from pathlib import Path
from typing import Any, Literal, NewType, get_args, get_origin

VideoFile = NewType("VideoFile", Path)
ImageFile = NewType("ImageFile", Path)
Segment = NewType("Segment", tuple)  # (start, end) in seconds
Domain = NewType("Domain", str)

DOMAIN = re.compile(r"\w[\w .-]{0,99}")  # a name, never a path
LONGEST = 1e6  # seconds of a segment's end
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 60
SHORT.maxlevel = 2


def base(kind: Any) -> Any:
    """The type of what is there, of a field that may be left out."""
    return (
        next((part for part in get_args(kind) if part is not type(None)), kind)
        if type(None) in get_args(kind)
        else kind
    )


def wish(kind: Any, value: Any) -> str | None:
    """None if a cell of this kind may hold the value; else what it should be instead."""
    kind = base(kind)
    if get_origin(kind) is Literal:
        ok = any(type(value) is type(choice) and value == choice for choice in get_args(kind))  # True and 1.0 equal 1
        return None if ok else f"write one of {', '.join(map(repr, get_args(kind)))}"
    if kind is Segment:
        return None if is_segment(value) else "write [start, end] in seconds, 0 <= start < end"
    if kind == list[str]:
        return (
            None
            if isinstance(value, list) and not any(text_wish(text) for text in value)
            else "write a list of strings"
        )
    if kind is Domain:
        fits = isinstance(value, str) and DOMAIN.fullmatch(value)
        return None if fits else "write a name, such as human"
    return text_wish(value, is_path=kind in (VideoFile, ImageFile))


def is_segment(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(number) in (int, float) for number in value)
    return numbers and 0 <= value[0] < value[1] <= LONGEST


def text_wish(value: Any, is_path: bool = False) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return "write a text that is not empty"
    if any("\ud800" <= letter <= "\udfff" for letter in value) or "\0" in value:
        return "write UTF-8 text, without NUL and lone surrogates"
    if is_path and any(letter < " " for letter in value):
        return "write a path without control characters"


def from_text(kind: Any, text: str) -> Any:
    """The value of a CSV's cell: JSON where the kind is no text; where that is not JSON either, the text, which does
    not fit.
    """
    kind = base(kind)
    if kind is Segment or kind == list[str] or (get_origin(kind) is Literal and str not in map(type, get_args(kind))):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def typed(kind: Any, value: Any, folder: Path) -> Any:
    """What a row holds for a value that fits. folder: the manifest's."""
    kind = base(kind)
    if kind in (VideoFile, ImageFile):
        return folder / value
    if kind is Segment:
        return tuple(value)
    return value


def shown(value: Any) -> str:
    """A value in a message, however long or deep it is."""
    return SHORT.repr(value)
