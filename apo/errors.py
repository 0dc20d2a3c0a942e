"""What a command says of a mistake: one line with the remedy, no traceback."""

import errno
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

DISK = {  # errno -> the remedy
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within your quota",
    errno.EROFS: "that disk is read-only: give a folder on another",
    errno.EACCES: "give a folder that you may write to, or change its permissions",
    errno.EPERM: "give a folder that you may write to, or change its permissions",
    errno.EEXIST: "there is a file of that name: give another path",
    errno.ENOTDIR: "a part of that path is a file: give another path",
    errno.EISDIR: "there is a folder of that name: move it away, or give another path",
    errno.ENAMETOOLONG: "give a shorter path",
}


COMMAND = "APO_COMMAND"  # holds the command line of a sweep, for its jobs in processes of their own
INTERRUPTED = 130  # exit status of a command that was ended by Ctrl-C, as shells have it


class UserError(ValueError):
    """What the user can mend: the message names the field, file or value, and the remedy."""


@contextmanager
def refused(key: str, kind: type[UserError] = UserError) -> Iterator[None]:
    """Inside, whatever a part of the config raises while it is looked at becomes an error of this kind, in one line.

    key: of the part, which is named where the error's own words don't name a setting.
    """
    try:
        yield
    except Exception as error:
        raise kind(refusal(key, error)) from error


def refusal(key: str, error: Exception) -> str:
    error = unwrapped(error)
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{key}: {error.filename or 'a file'}: {error.strerror}; {DISK.get(error.errno, 'correct the path')}"
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | FileNotFoundError):
        return text if re.search(r"[\w.]+[=:]|\w\.\w", text) else f"{key}: {text}"
    return f"{key}: {type(error).__name__}: {text or 'without a word'}; correct the settings of {key}"


def unwrapped(error: Exception) -> Exception:
    """What a constructor raised, which hydra wraps."""
    while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def one_line(command: str) -> Iterator[None]:
    """Inside, a UserError and a disk that refuses end the process with `command: what is wrong and the remedy` and exit
    status 1, Ctrl-C with a line and exit status 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        say_interrupted()
        sys.exit(INTERRUPTED)
    except Exception as error:
        if isinstance(cause := unwrapped(error), UserError):
            sys.exit(f"{command}: {cause}")
        if not isinstance(error, OSError) or error.errno not in DISK:
            raise
        sys.exit(
            f"{command}: {error.filename or 'a file'}: {error.strerror}; {DISK[error.errno]}, then run the same "
            "command again"
        )


def say_interrupted() -> None:
    print(f"\ninterrupted; the same command continues: {this_command()}", file=sys.stderr)


def this_command() -> str:
    """The command line of this process, to be given again."""
    return os.environ.get(COMMAND) or shlex.join(sys.orig_argv)


def end_at_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As sys.excepthook: a Ctrl-C that comes while imports run, or where nothing waits for it, shows no traceback
    either.
    """
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    say_interrupted()
    sys.exit(INTERRUPTED)
