import os
import pty
import sys
from contextlib import contextmanager, redirect_stdout
from types import SimpleNamespace

import pytest

from apo import terminal
from apo.terminal import progress, recorded


@contextmanager
def screen():
    """A pseudo-terminal as stdout; gives a list that holds what it was sent in the end."""
    ours, theirs = pty.openpty()
    said = []
    with os.fdopen(theirs, "w") as stream:
        with redirect_stdout(stream):
            yield said
        stream.flush()
        said.append(os.read(ours, 100_000).decode())
    os.close(ours)


@pytest.fixture
def now(monkeypatch):
    """The clock of `terminal`, in seconds."""
    clock = [100.0]
    monkeypatch.setattr(terminal, "INTERVAL", 30)
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


def test_a_file_gets_a_whole_line_every_so_many_seconds_and_one_at_the_end(now, capsys):
    for _ in progress(range(8), desc="encoding"):
        now[0] += 20
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "encoding: 2 of 8, 00:40 gone, 02:00 left" and len(lines) == 4
    assert lines[-1] == "encoding: 8 of 8, 02:40 gone, 00:00 left"


def test_time_left_counts_what_this_process_did(now, capsys):
    with progress(total=100, desc="steps", initial=90) as bar:
        now[0] += 30
        bar.set_postfix(loss="0.5")
        bar.update(5)
    assert capsys.readouterr().out == "steps: 95 of 100, loss 0.5, 00:30 gone, 00:30 left\n"


def test_what_is_done_before_its_delay_says_nothing(now, capsys):
    list(progress(range(3), desc="checking", delay=2))
    list(progress(range(3), desc="hidden", disable=True))
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar():
    with screen() as said:
        list(progress(range(3), desc="encoding"))
    assert "\rencoding" in said[0] and "3/3" in said[0]


def test_the_log_holds_the_last_state_of_a_bar_and_every_line(tmp_path, capsys):
    with screen() as said, pytest.raises(SystemExit), recorded(tmp_path / "train.log"):
        print("begins")
        list(progress(range(3), desc="encoding"))
        print("a warning", file=sys.stderr)
        sys.exit("train: an error")
    log = (tmp_path / "train.log").read_text()
    assert [line.split(":")[0] for line in log.splitlines()] == ["begins", "encoding", "a warning", "train"]
    assert "3/3" in log and "\r" not in log and "begins" in said[0]
