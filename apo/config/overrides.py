"""What Hydra has against a command's overrides, as one line with the remedy."""

import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from apo.config.compose import compose
from apo.config.suggestions import keys, options, unknown
from apo.errors import UserError

CARRIED = re.compile(r"\+*(model|trainer)([.=].*)")  # overrides of a training that its evaluation needs, too
NOISE = ("full_key:", "object_type=", "reference_type=", "See https", "Set the env", "To append to your config")


@contextmanager
def hydra_in_one_line(command: str, config: str) -> Iterator[None]:
    """Around a @hydra.main function: what Hydra refuses ends the process with `command: what is wrong` and exit status
    1.

    config: the name of the function's config. Whatever else is raised keeps its traceback.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors then, instead of printing them with a trailer
    with refusals(config, sys.argv[1:]) as said:
        yield
    if said:
        sys.exit(f"{command}: {said[0]}")


@contextmanager
def overrides_checked(config: str, overrides: Sequence[str]) -> Iterator[None]:
    """Around `compose`: what Hydra refuses is raised as a UserError."""
    with refusals(config, overrides) as said:
        yield
    if said:
        raise UserError(said[0])


def composed(config: str, overrides: Sequence[str]) -> DictConfig:
    """The config of train.py ("train") or evaluate.py ("evaluate"); what Hydra refuses is raised as a UserError."""
    with overrides_checked(config, overrides):
        return compose(config, overrides)


@contextmanager
def refusals(config: str, overrides: Sequence[str]) -> Iterator[list[str]]:
    """Takes what Hydra raises inside; afterwards the list holds what to say of it, if there was something."""
    said = []
    try:
        yield said
    except InstantiationException:
        raise  # of a part that is being built, not of the overrides
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if not raised_by_hydra(error):
            raise
        said.append(explained(error, config, overrides))


def raised_by_hydra(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].partition(".")[0] in ("hydra", "omegaconf", "antlr4")


def explained(error: Exception, config: str, overrides: Sequence[str]) -> str:
    text = str(error)
    if isinstance(error, OverrideParseException):
        remedy = "quote a value with spaces, commas, brackets or = in it"
        return f"{error.override}: this is no override that can be read: {remedy}"
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '([^']+)/([^/']*)'", text)):
        return no_option(*found.groups(), sorted(error.options or []))
    if found := re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text):
        return unknown(found[1], known_keys(config, overrides, found[1]))
    if found := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"{found[1]} is there already: leave out the +"
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]}: give one value, -m to run all of them, or brackets for a list"
    if "Config group override must be" in text:
        return next(wrong_groups(overrides), f"{' '.join(overrides)}: a group takes the name of an option")
    if found := re.search(r"Interpolation key '([^']+)' not found", text):
        return f"${{{found[1]}}}: {found[1]} is not set: give the name of a setting that is"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(NOISE))


def no_option(group: str, given: str, there: Sequence[str]) -> str:
    near = get_close_matches(given, there, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{group}={given}: there is no such option; {guess}there are {', '.join(there)}"


def wrong_groups(overrides: Sequence[str]) -> Iterator[str]:
    for group, _, given in (override.partition("=") for override in overrides):
        if options(group) and given not in options(group):
            yield no_option(group, given, options(group))


def known_keys(config: str, overrides: Sequence[str], wrong: str) -> list[str]:
    """Of the config that the other groups of the command make; of the usual one if they make none."""
    groups = [
        override
        for override in overrides
        if options(override.partition("=")[0]) and not override.startswith(f"{wrong}=")
    ]
    for chosen in (groups, []):
        try:
            return keys(compose(config, chosen))
        except (HydraException, OmegaConfBaseException, ValueError):
            continue
    return []


def quoted(value) -> str:
    """As a value of Hydra's override grammar."""
    text = str(value)
    return text if re.fullmatch(r"[\w./%@+-]+", text) else '"' + text.replace('"', '\\"') + '"'
