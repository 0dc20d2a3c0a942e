"""The process that `apo.tools.warm` forks commands from: `python -m apo.tools.server FOLDER/python`, with a socket
beside that file.

For each connection a handler forks the command, says how it ended, and kills it if the one who asked is gone.
"""

import atexit
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path

# what a command would import itself; diffusers and transformers load lazily, so that classes are named
LIBRARIES = (
    "import torch, hydra, lightning, peft, av, pandas, pyarrow.parquet, sklearn.datasets, scipy.ndimage, "
    "torchmetrics, matplotlib.pyplot",
    "from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel",
    "from transformers import CLIPImageProcessor, CLIPVisionModel, Qwen3VLForConditionalGeneration, T5TokenizerFast, "
    "UMT5EncoderModel",
)
CPU = "cpu"  # file beside the socket: a line of seconds for each command that has ended


def serve(python: Path) -> None:
    """Until stdin is closed."""
    for line in LIBRARIES:
        exec(line, {})
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(python.with_name("half")))
        server.listen(64)
        python.with_name("half").rename(python.with_name("socket"))  # there once it listens
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while server in select.select([server, sys.stdin], [], [])[0]:
            client = server.accept()[0]
            if not os.fork():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                handle(client, python)
            client.close()


def handle(client: socket.socket, python: Path) -> None:
    """Runs the command that the client asks for and ends this process."""
    first, streams, _, _ = socket.recv_fds(client, 1, 3)
    request = json.loads(first + client.makefile("rb").readline())
    marker = python.with_name(f"running_{os.getpid()}")
    marker.touch()
    if not (pid := os.fork()):
        client.close()
        become(request, streams, str(python))
    os.setpgid(pid, pid)  # as it does itself: whoever is first
    ready = select.select([client, os.pidfd_open(pid)], [], [])[0]
    if client in ready:  # nothing more is ever sent: the client is gone
        os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    with python.with_name(CPU).open("a") as file:
        file.write(f"{usage.ru_utime + usage.ru_stime}\n")
    try:
        os.killpg(pid, signal.SIGKILL)  # what it left behind
    except ProcessLookupError:
        pass
    marker.unlink()
    try:
        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    except BrokenPipeError:
        pass
    os._exit(0)


def become(request: dict, streams: list[int], python: str) -> None:
    """Turns this process into `python <command>`, and ends it as that would end."""
    os.setpgid(0, 0)
    for stream, source in enumerate(streams):
        os.dup2(source, stream)
    os.closerange(3, 256)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"] | {"OMP_NUM_THREADS": "1"})
    sys.path[0], sys.executable = request["cwd"], python
    random.seed()
    code = executed(request["command"])
    threading._shutdown()  # and what else an interpreter does before it ends
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
    serve(Path(sys.argv[1]))
