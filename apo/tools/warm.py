"""Commands that start at once: a process that has imported the libraries forks for each, so that hundreds can be tried.

    with Warm(root) as warm:
        done = warm.run(["train.py", "stage=offline"], cwd=folder, limit_s=60)

A command is what follows `python`: a script and its arguments, or -m and a module. Each leads a process group of its
own, and what it starts as `sys.executable` is forked, too. What imports cost can't be seen this way: `Real` runs the
same in new interpreters.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp

from apo.tools.server import CPU


@dataclass(frozen=True)
class Done:
    """How a command ended. code: its exit status, or minus the signal that ended it. output: stdout and stderr
    together.
    """

    code: int
    output: str
    cpu_s: float  # of the process and those of its children that it waited for
    wall_s: float

    @property
    def lines(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.strip()]


class Real:
    """Commands in interpreters of their own."""

    python = sys.executable

    def run(self, command: Sequence[str], cwd: Path, limit_s: float | None = None, **env: str) -> Done:
        """To its end, or until it is killed, after limit_s."""
        return executed([self.python, *command], cwd, limit_s, env)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Warm(Real):
    """Commands forked from a process that has imported the libraries and, from `root`, apo. python: stands for the
    interpreter.
    """

    def __init__(self, root: Path):
        self.folder = Path(mkdtemp(prefix="apo_warm_"))
        self.python = str(self.folder / "python")
        shutil.copy(Path(__file__).with_name("forked.py"), self.python)
        script = Path(self.python)
        script.write_text(f"#!{sys.executable} -IS\n{script.read_text()}")
        script.chmod(0o755)
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "GOMP_SPINCOUNT": "1000",
            "PYTHONPATH": str(root),
        }  # see apo/quiet.py
        command = [sys.executable, "-m", "apo.tools.server", self.python]
        self.server = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, env=env)
        while not (self.folder / "socket").exists():
            if self.server.poll() is not None:
                raise RuntimeError(f"the process that commands are forked from ended with {self.server.returncode}")
            time.sleep(0.05)

    def run(self, command: Sequence[str], cwd: Path, limit_s: float | None = None, **env: str) -> Done:
        """As `Real.run`; returns once all that was forked for it has ended."""
        done = executed([self.python, *command], cwd, limit_s, env)
        return replace(done, cpu_s=self.settled())

    def settled(self) -> float:
        """CPU seconds of what was forked since the last call, once all of it has ended."""
        while list(self.folder.glob("running_*")):
            time.sleep(0.01)
        spent = self.folder / CPU
        seconds = sum(map(float, spent.read_text().split())) if spent.exists() else 0.0
        spent.unlink(missing_ok=True)
        return seconds

    def __exit__(self, *error):
        self.server.stdin.close()
        self.server.kill()
        self.server.wait()
        shutil.rmtree(self.folder)


def executed(command: Sequence[str], cwd: Path, limit_s: float | None, env: dict[str, str]) -> Done:
    """Runs a program in a process group of its own and kills what it leaves behind."""
    with TemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=os.environ | env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        timer = threading.Timer(limit_s, kill, [process.pid]) if limit_s is not None else None
        if timer:
            timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        if timer:
            timer.cancel()
        kill(process.pid)
        log.seek(0)
        return Done(process.returncode, log.read().decode(errors="replace"), usage.ru_utime + usage.ru_stime, seconds)


def kill(group: int) -> None:
    """SIGKILL to a process group, if there still is one."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
