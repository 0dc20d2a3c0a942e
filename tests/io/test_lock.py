"""One process at a time in a folder."""

import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from apo.io import lock
from apo.io.lock import InUse, holding

HOLD = """
import sys, time
from pathlib import Path
from apo.io import lock
with lock.holding(Path(sys.argv[1]), ""):
    if sys.argv[2:] == ["stopping"]:
        lock.stopping()
    print(flush=True)
    time.sleep(2 if sys.argv[2:] else 60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    started = []

    def start(*more: str) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), *more], stdout=subprocess.PIPE))
        started[-1].stdout.readline()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_the_second_is_refused_at_once_and_a_dead_ones_lock_is_free(tmp_path, other):
    process, began = other(), time.monotonic()
    host = re.escape(socket.gethostname())
    said = rf"{tmp_path} is in use by process {process.pid} on {host}, since \d{{4}}-.*: stop it"
    with pytest.raises(InUse, match=said), holding(tmp_path, "stop it"):
        pass
    assert time.monotonic() - began < 1
    process.kill()
    process.wait()
    with holding(tmp_path, ""):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_it_is_free_again_whatever_ends_the_holder(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), holding(tmp_path, ""):
            with pytest.raises(InUse), holding(tmp_path, ""):
                pass
            raise KeyError


def test_one_that_was_asked_to_stop_is_waited_for(tmp_path, other, capsys, monkeypatch):
    process = other("stopping")
    with holding(tmp_path, ""):
        assert process.wait(60) == 0
    assert f"is held by process {process.pid}" in capsys.readouterr().err
    other("stopping")
    monkeypatch.setattr(lock, "TIMEOUT", 0.3)
    with pytest.raises(InUse), holding(tmp_path, ""):
        pass


def test_a_requeued_job_waits_for_its_predecessor(tmp_path, other, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    process = other("a while")
    with holding(tmp_path, ""):
        assert process.wait(60) == 0


@pytest.mark.parametrize("variable", lock.FIRST)
def test_only_the_first_process_of_a_run_holds_it(tmp_path, other, monkeypatch, variable):
    other()
    monkeypatch.setenv(variable, "1")
    with holding(tmp_path, ""):
        pass


def left_by(path, host: str) -> None:
    path.write_text(
        json.dumps({"host": host, "pid": 1, "since": "2026-01-01 00:00:00", "job": None, "stopping": False})
    )


def test_a_holder_on_another_machine_is_known_by_its_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 1.5)
    path, ended = tmp_path / ".lock", threading.Event()
    left_by(path, "node7")

    def beat():
        while not ended.wait(0.1):
            os.utime(path)

    beating = threading.Thread(target=beat)
    beating.start()
    with pytest.raises(InUse, match="process 1 on node7, since 2026-01-01"), holding(tmp_path, ""):
        pass
    ended.set()
    beating.join()
    began = time.monotonic()
    with holding(tmp_path, ""):
        assert time.monotonic() - began > 1.4


def test_on_a_disk_without_locks_the_process_itself_tells(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    left_by(tmp_path / ".lock", socket.gethostname())
    with pytest.raises(InUse, match="process 1 on"), holding(tmp_path, ""):
        pass
    (tmp_path / ".lock").write_text("damaged")
    with holding(tmp_path, ""):
        pass
    assert not list(tmp_path.iterdir())


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with holding(tmp_path, ""):
        os.utime(tmp_path / ".lock", (0, 0))
        time.sleep(0.3)
        assert (tmp_path / ".lock").stat().st_mtime > 0
