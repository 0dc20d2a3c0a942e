"""Commands that start at once: a process that has imported the libraries forks for each, so that hundreds can be tried.

    with Warm() as warm:
        done = warm.run(["train.py", "stage=offline"], cwd=folder, limit_s=60)

A command is what follows `python`: a script and its arguments, or -m and a module. Each runs in a process group of its own. What
imports cost can't be seen this way; `real` runs the same command in a process of its own.
"""

import atexit
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

# what a command would import itself; diffusers and transformers load lazily, so that the classes are named
LIBRARIES = (
    "import torch, hydra, lightning, peft, av, pandas, pyarrow.parquet, sklearn.datasets, scipy.ndimage, torchmetrics, matplotlib.pyplot",
    "from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel",
    "from transformers import CLIPImageProcessor, CLIPVisionModel, Qwen3VLForConditionalGeneration, T5TokenizerFast, UMT5EncoderModel",
)


@dataclass(frozen=True)
class Done:
    """How a command ended. code: its exit status, or minus the signal that ended it. output: stdout and stderr together."""

    code: int
    output: str
    cpu_s: float  # of the process and those of its children that it waited for
    wall_s: float

    @property
    def lines(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.strip()]


class Running:
    """A command under way, the leader of a process group."""

    def __init__(self, pid: int):
        self.pid, self.began = pid, time.monotonic()

    def kill(self) -> None:
        """SIGKILL to the whole group; nothing if it has ended."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def run(start, command: Sequence[str], cwd: Path, limit_s: float | None, env: dict[str, str]) -> Done:
    """Runs a command to its end, or kills it after limit_s. start: of `Warm` or `Real`."""
    with TemporaryFile() as log:
        running, wait = start(command, cwd, env, log.fileno())
        timer = threading.Timer(limit_s, running.kill) if limit_s is not None else None
        if timer:
            timer.start()
        code, cpu_s = wait()
        seconds = time.monotonic() - running.began
        if timer:
            timer.cancel()
        running.kill()  # children that outlived it
        log.seek(0)
        return Done(code, log.read().decode(errors="replace"), cpu_s, seconds)


class Real:
    """Commands in processes of their own, imports and all."""

    def run(self, command: Sequence[str], cwd: Path, limit_s: float | None = None, **env: str) -> Done:
        return run(self.start, command, cwd, limit_s, env)

    def start(self, command: Sequence[str], cwd: Path, env: dict[str, str], log: int):
        process = subprocess.Popen(
            [sys.executable, *command], cwd=cwd, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        return Running(process.pid), lambda: waited(process.pid)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Warm:
    """Commands forked from a process that has imported the libraries, one at a time."""

    def __init__(self, root: Path = Path()):
        """root: of the working tree whose `apo` the commands import."""
        self.server = subprocess.Popen(
            [sys.executable, "-m", "apo.tools.warm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
            env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
        )  # fmt: skip

    def run(self, command: Sequence[str], cwd: Path, limit_s: float | None = None, **env: str) -> Done:
        return run(self.start, command, cwd, limit_s, env)

    def start(self, command: Sequence[str], cwd: Path, env: dict[str, str], log: int):
        request = {"command": list(command), "cwd": str(cwd), "env": env, "log": f"/proc/{os.getpid()}/fd/{log}"}
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return Running(self.reply()), self.reply

    def reply(self):
        return json.loads(self.server.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()


def waited(pid: int) -> tuple[int, float]:
    """Exit status, or minus a signal, and CPU seconds of a child."""
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def serve() -> None:
    """A request a line on stdin; on stdout its pid at once and how it ended at its end."""
    for line in LIBRARIES:
        exec(line, {})
    replies = os.fdopen(os.dup(1), "w")  # what is printed by accident does not go there
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if not (pid := os.fork()):
            become(request)
        os.setpgid(pid, pid)
        print(pid, file=replies, flush=True)
        print(json.dumps(waited(pid)), file=replies, flush=True)


def become(request: dict) -> None:
    """Turns this process into `python <command>`, and ends it as that would end."""
    os.setpgid(0, 0)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    for stream, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(source, stream)
    os.closerange(3, 256)
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    os.environ.update(request["env"])
    random.seed()
    code = executed(request["command"])
    threading._shutdown()  # and what else the interpreter does before it ends
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def executed(command: list[str]) -> int:
    """Exit status of a command in this process."""
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return int(isinstance(ended.code, str)) or ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
