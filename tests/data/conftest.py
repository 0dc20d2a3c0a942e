"""A small manifest and its files."""

from pathlib import Path

import pytest

from tests.data.clips import counted, write_jsonl


@pytest.fixture
def records(tmp_path) -> list[dict]:
    """Seven good rows over four chosen videos, with their files in tmp_path."""
    for i in range(7):
        counted(tmp_path / f"bad{i}.mp4", 6, start=20 + i)
        counted(tmp_path / f"good{i % 4}.mp4", 6, start=i % 4)
    return [{"prompt": f"pair {i % 4}", "chosen": f"good{i % 4}.mp4", "rejected": f"bad{i}.mp4"} for i in range(7)]


@pytest.fixture
def manifest(tmp_path, records) -> Path:
    return write_jsonl(tmp_path / "manifest.jsonl", records)
