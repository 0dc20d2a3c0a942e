"""Options of config groups on a command line, looked at before Hydra is asked, which answers some with a traceback."""

import re
from pathlib import Path

from apo.errors import UserError

CONF = Path(__file__).parents[1] / "conf"
NULL = re.compile(r"([\w/]+)=(null)?", re.IGNORECASE)


def require_choices(words: list[str]) -> None:
    """UserError for a group that is set to nothing: a command needs one of its options."""
    for word in words:
        found = NULL.fullmatch(word)
        if found and (options := sorted(path.stem for path in (CONF / found[1]).glob("*.yaml"))):
            raise UserError(f"{word}: give one of {', '.join(options)}, or leave it out")
