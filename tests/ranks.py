"""Several processes as torchrun starts them, forked from a server that has imported everything once."""

import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.commands import ROOT

SERVER = multiprocessing.get_context("forkserver")


def start(world: int, log: Path, function: Callable, *arguments) -> list[BaseProcess]:
    """function(*arguments) in `world` processes, whose output goes to the files log.0, log.1, ..."""
    os.environ["PYTHONPATH"] = str(ROOT)  # of the server, which imports these once
    SERVER.set_forkserver_preload(["apo.run", "tests.policies.test_wan", "tests.aligning"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        SERVER.Process(target=_enter, args=(rank, world, port, log, function, arguments)) for rank in range(world)
    ]
    for process in started:
        process.start()
    return started


def finish(started: list[BaseProcess], log: Path) -> None:
    """Waits for all; one that fails ends the others, as under torchrun."""
    deadline = time.time() + 240
    while any(process.is_alive() for process in started) and time.time() < deadline:
        if any(process.exitcode for process in started):
            deadline = min(deadline, time.time() + 10)
        time.sleep(0.05)
    for process in started:
        process.kill()
        process.join()
    said = "\n".join(f"{log}.{rank}: {Path(f'{log}.{rank}').read_text()[-3000:]}" for rank in range(len(started)))
    assert [process.exitcode for process in started] == [0] * len(started), said


def together(world: int, log: Path, function: Callable, *arguments) -> None:
    finish(start(world, log, function, *arguments), log)


def train(*overrides: str) -> None:
    """The command `train.py`, in this process."""
    sys.argv = ["train.py", *overrides]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def _enter(rank: int, world: int, port: int, log: Path, function: Callable, arguments: tuple) -> None:
    file = os.open(f"{log}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": world,
        "GROUP_RANK": 0,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "test",
    }
    os.environ |= {key: str(value) for key, value in place.items()}
    os.chdir(ROOT)
    import torch

    torch.set_num_threads(1)
    function(*arguments)
