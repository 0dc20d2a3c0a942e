"""One process at a time in a folder: a run's, or an evaluation's results."""

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from apo.errors import UserError
from apo.io.files import is_alive

NAME = ".lock"
BEAT = 5.0  # seconds between a holder's signs of life
SILENCE = 30.0  # without one for so long, a holder on another machine counts as dead
TIMEOUT = 120.0  # for a holder that has been asked to stop: it ends the step under way and saves
NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}  # of disks that have none
FIRST = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")  # what starters of processes number them by
held: list["Lock"] = []  # by this process


class InUse(UserError):
    """Another process works in the folder."""


@dataclass
class Holder:
    host: str
    pid: int
    since: str
    job: str | None  # SLURM's: a requeued job has its predecessor's
    stopping: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    def ends(self) -> bool:
        """Whether it has been asked to stop, or is this job before it was requeued."""
        return self.stopping or (self.job is not None and self.job == os.environ.get("SLURM_JOB_ID"))


def is_first_process() -> bool:
    """Whether this is the process of a run that writes: the first one of the first node. Known before they are
    connected.
    """
    return all(int(os.environ.get(name, 0)) == 0 for name in FIRST)


@contextmanager
def holding(folder: Path, remedy: str) -> Iterator[None]:
    """Inside, no other process is in here with this folder; InUse if one is already, saying which. Of several processes
    of one run the first holds it.

    A holder that has been asked to stop, or is the same SLURM job before it was requeued, is waited for, TIMEOUT
    seconds at most.

    Guaranteed: on one machine there is never a second process, and a dead one's lock is free at once; so it is with
    several where the disk's flock acts on all of them (NFS with locks, Lustre with -o flock, GPFS), but that a dead one
    on another machine is waited for, SILENCE seconds. Not guaranteed: where flock acts on one machine only, a holder on
    another is known by a sign of life every BEAT seconds; one that hangs for SILENCE counts as dead, and two that start
    in the same moment may both go on.
    """
    if not is_first_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / NAME)
    wait_for(lock, folder, remedy)
    beat = threading.Thread(target=lock.beat, daemon=True)
    beat.start()
    held.append(lock)
    try:
        yield
    finally:
        held.remove(lock)
        lock.done.set()
        beat.join()
        lock.release()


def holder_of(folder: Path) -> Holder | None:
    """Who works in a folder, to be named in a message; None if nobody does. It takes no lock, so that it gets in
    nobody's way.
    """
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY)
    except FileNotFoundError:
        return None
    holder, silence = read(descriptor), time.time() - os.fstat(descriptor).st_mtime
    os.close(descriptor)
    lives = holder is not None and (is_alive(holder.pid) if holder.is_here() else silence < SILENCE)
    return holder if lives else None


def was_killed(folder: Path) -> bool:
    """Whether the lock of a dead process lies in a folder."""
    return (folder / NAME).exists() and holder_of(folder) is None


def stopping() -> None:
    """Tells processes that wait for this one's folders that it has been asked to stop."""
    for lock in held:
        with suppress(OSError):  # called where a signal arrives: in the middle of anything
            lock.write(stopping=True)


def wait_for(lock: "Lock", folder: Path, remedy: str) -> None:
    """Takes the lock, at once or after its holder's end; InUse if that does not come."""
    began, first, said = time.monotonic(), None, False
    while (holder := lock.take()) is not None:
        first = first or lock.signs
        silent = not lock.certain and lock.signs == first
        limit = SILENCE if silent else TIMEOUT if holder.ends() else 0
        if time.monotonic() - began < limit:
            if not said:
                print(f"{folder} is held by {holder}; waiting for its end, {limit:g} s at most", file=sys.stderr)
            said = True
            time.sleep(0.2)
        elif silent:
            lock.dead = lock.signs
        else:
            raise InUse(f"{folder} is in use by {holder}: {remedy}")


class Lock:
    """A file that says who holds it, under the kernel's lock where the disk has one."""

    def __init__(self, path: Path):
        self.path, self.done, self.descriptor = path, threading.Event(), -1
        self.certain = True  # whether the holder that `take` found is certainly alive
        self.signs: int | None = None  # when it last gave a sign of life
        self.dead: int | None = None  # the last sign of a holder that counts as dead
        self.since = time.strftime("%Y-%m-%d %H:%M:%S")

    def take(self) -> Holder | None:
        """None once this process holds the lock; else who does."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks = True
        except OSError as error:
            if error.errno not in NO_LOCKS | {errno.EWOULDBLOCK}:
                raise
            locks = None if error.errno in NO_LOCKS else False
        holder, self.signs = read(descriptor), os.fstat(descriptor).st_mtime_ns
        if not self.is_there(descriptor):  # its holder has just released it
            os.close(descriptor)
            return self.take()
        self.certain = locks is False or (
            locks is None and holder is not None and holder.is_here() and is_alive(holder.pid)
        )
        if self.certain or (holder is not None and not holder.is_here() and self.signs != self.dead):
            os.close(descriptor)
            return holder or Holder("this or another machine", 0, "a moment ago", None)
        self.descriptor = descriptor
        self.write()
        return None

    def is_there(self, descriptor: int) -> bool:
        """Whether the open file is the one that has the name."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def write(self, stopping: bool = False) -> None:
        holder = Holder(socket.gethostname(), os.getpid(), self.since, os.environ.get("SLURM_JOB_ID"), stopping)
        content = json.dumps(asdict(holder)).encode().ljust(512)
        os.pwrite(self.descriptor, content, 0)

    def beat(self) -> None:
        while not self.done.wait(BEAT):
            os.utime(self.descriptor)

    def release(self) -> None:
        if self.is_there(self.descriptor):
            self.path.unlink()
        os.close(self.descriptor)


def read(descriptor: int) -> Holder | None:
    """Who is written in a lock file; None if nobody is, or a disk's damage."""
    try:
        found = Holder(**json.loads(os.pread(descriptor, 4096, 0)))
        return found if isinstance(found.host, str) and isinstance(found.pid, int) else None
    except (ValueError, TypeError):
        return None
