"""Files that are there whole or not at all, also under kills and on disks that refuse."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError

from apo.errors import UserError, one_line
from apo.io import files
from apo.io.files import naming, partial_name, read_json, replacing, replacing_folder, sweep, write_tensors, write_text


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "replace", lambda one, other: done.append(str(other)))
    write_text(tmp_path / "a", "text")
    assert len(done) == 3 and done[1:] == [str(tmp_path / "a"), str(tmp_path)] and ".a." in done[0]


def test_what_is_raised_leaves_nothing(tmp_path):
    for writer in (replacing, replacing_folder):
        with pytest.raises(RuntimeError), writer(tmp_path / "a") as partial:
            (partial / "b" if partial.is_dir() else partial).write_text("half")
            raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_with_all_its_files(tmp_path):
    with replacing_folder(tmp_path / "a") as partial:
        write_text(partial / "b" / "c", "text")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "b" / "c").read_text() == "text" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError, match="not empty"), replacing_folder(tmp_path / "a"):
        pass


def test_what_a_killed_process_was_writing_is_swept_and_nothing_else(tmp_path):
    script = "import sys, time; from pathlib import Path; from apo.io.files import replacing\n"
    script += "with replacing(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a")], stdout=subprocess.PIPE)
    process.stdout.readline()
    (tmp_path / ".a.mine.tmp").touch()
    (tmp_path / "x.tmp").touch()
    other = tmp_path / f".a.{'0' * 8}-{process.pid}-01234567.tmp"  # of another machine
    other.touch()
    with replacing(tmp_path / "b"):
        sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 5  # its writer lives
        process.send_signal(signal.SIGKILL)
        process.wait()
        sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 4
    os.utime(other, (0, 0))
    stray = partial_name(tmp_path / "c")  # by a process of the same number, before this one
    stray.mkdir()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".a.mine.tmp", "x.tmp", "b"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_is_one_line_with_the_path(tmp_path, number):
    refusals = [
        OSError(number, os.strerror(number)),
        SafetensorError(f"I/O error: {os.strerror(number)} (os error {number})"),
    ]
    for refusal in refusals:
        with pytest.raises(SystemExit) as caught, one_line("config"), naming(tmp_path / "last.ckpt"):
            raise refusal
        text = str(caught.value)
        assert text.startswith(f"config: {tmp_path / 'last.ckpt'}: {os.strerror(number)}; ") and text.endswith(
            "run the same command again"
        )


def test_a_file_of_a_partial_folder_is_named_by_its_place_in_the_whole_one(tmp_path):
    with pytest.raises(OSError) as caught, replacing_folder(tmp_path / "out") as partial:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial / "a/b.safetensors"))
    assert caught.value.filename == str(tmp_path / "out/a/b.safetensors") and not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file_whoever_writes(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for name, write in (
        ("a", lambda path: write_text(path, "")),
        ("b", lambda path: write_tensors(path, {"x": torch.zeros(1)})),
    ):
        with pytest.raises(OSError) as caught:
            write(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[" * 100_000, None])
def test_a_damaged_json_file_is_named_with_the_remedy(tmp_path, damage):
    path = tmp_path / "start.json"
    path.mkdir() if damage is None else path.write_bytes(damage)
    with pytest.raises(UserError, match=r"start.json is damaged \(.+\): delete it"):
        read_json(path, "delete it")


def test_a_living_process_is_known(monkeypatch):
    assert files.is_alive(os.getpid()) and files.is_alive(1)
    process = subprocess.Popen(["true"])
    process.wait()
    assert not files.is_alive(process.pid)
