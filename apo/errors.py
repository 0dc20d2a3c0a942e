"""What a command says of a mistake: one line with the remedy, no traceback."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DISK = {  # errno -> the remedy
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within your quota",
    errno.EROFS: "that disk is read-only: give a folder on another",
    errno.EACCES: "give a folder that you may write to, or change its permissions",
    errno.EPERM: "give a folder that you may write to, or change its permissions",
    errno.EEXIST: "there is a file of that name: give another path",
    errno.ENOTDIR: "a part of that path is a file: give another path",
    errno.EISDIR: "there is a folder of that name: give another path",
    errno.ENAMETOOLONG: "give a shorter path",
}


class UserError(ValueError):
    """What the user can mend: the message names the field, file or value, and the remedy."""


@contextmanager
def one_line(command: str) -> Iterator[None]:
    """Inside, a UserError and a disk that refuses end the process with `command: what is wrong and the remedy` and exit status 1."""
    try:
        yield
    except UserError as error:
        sys.exit(f"{command}: {error}")
    except OSError as error:
        if error.errno not in DISK:
            raise
        sys.exit(f"{command}: {error.filename or 'a file'}: {error.strerror}; {DISK[error.errno]}, then run the same command again")
