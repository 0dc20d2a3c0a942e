"""Command lines of short runs, and what they leave in their folders."""

import csv
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def short(home: Path, pipeline: Path, manifest: Path, run: str) -> list[str]:
    """train.py's overrides for an offline run of 24 steps on a manifest, its folder below `home`."""
    return [
        f"run={run}",
        f"hydra.run.dir={home}/{run}",
        f"model.path={pipeline}",
        "model.spec={height: 32, width: 48, frames: 9, fps: 8}",
        "model.num_inference_steps=4",
        "data=pairs",
        f"data.path={manifest}",
        f"data.cache_dir={home}/cache",
        "max_steps=24",
        "checkpoint_every_n_steps=4",
        "sample_every_n_steps=0",
        "batch_size=2",
        "policy.lora.rank=2",
        "trainer.threads=1",
    ]


def train(*overrides: str) -> list[str]:
    return [sys.executable, "train.py", *overrides]


def execute(command: list[str]) -> subprocess.CompletedProcess:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def metrics(folder: Path) -> list[dict]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def adapter(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "adapter").glob("*.safetensors")}


def wait_for_steps(process: subprocess.Popen | BaseProcess, folder: Path, rows: int) -> None:
    """Until the run has that many rows of metrics."""
    deadline = time.time() + 900
    while not ((folder / "metrics.csv").exists() and len(metrics(folder)) >= rows):
        code = process.exitcode if isinstance(process, BaseProcess) else process.poll()
        assert code is None and time.time() < deadline
        time.sleep(0.02)
