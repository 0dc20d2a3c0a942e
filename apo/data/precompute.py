"""Encodes the user's rows before training, on as many processes as there are; `python -m apo.data.cache` runs it.

    python -m apo.data.cache --workers 8 data=pairs data.path=pairs.jsonl model=wan22_i2v_a14b trainer=gpu
    torchrun --nproc-per-node 8 -m apo.data.cache data=pairs data.path=pairs.jsonl ...
    srun --ntasks-per-node 8 python -m apo.data.cache data=pairs data.path=pairs.jsonl ...

Processes share the folder and nothing else: one that dies leaves what it had, the others finish (under torchrun, which then stops
them, and srun --kill-on-bad-exit they don't), and the same command goes on with the rest. Every file found is held against its checksum.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from apo.data.cache import LatentCache, fingerprint
from apo.data.checksums import Checksums
from apo.data.manifest import ManifestError
from apo.data.pairs import UserRows
from apo.data.shares import Share, from_environment
from apo.numbers import check_numbers
from apo.policies.architecture import fitting
from apo.policies.model import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(prog="apo.data.cache", description=__doc__.splitlines()[0], epilog="The rest: train.py's overrides.")
    parser.add_argument("--workers", type=int, help="processes on this machine; torchrun and srun say it themselves")
    parser.add_argument("--share", help=argparse.SUPPRESS)  # what a worker is started with: rank/world/report file
    given, overrides = parser.parse_known_args()
    try:
        cfg, launched = composed(overrides), from_environment(os.environ)
        if given.workers is not None and (launched or given.workers < 1):
            raise ValueError(f"--workers {given.workers}: give at least 1, and leave it out under torchrun and srun")
        if 0 < (gpus := torch.cuda.device_count()) < (given.workers or 1):
            raise ValueError(f"--workers {given.workers}: one a GPU, and there are {gpus}; CUDA_VISIBLE_DEVICES= encodes on CPUs")
        data = user_rows(cfg)
        if given.share:
            rank, world, report = given.share.split("/", 2)
            run(cfg, data, Share(int(rank), int(world), int(rank)), Path(report))
            return
        data.rows(instantiate(cfg.model).spec)
        if launched:
            run(cfg, data, launched)
        else:
            coordinate(overrides, given.workers or 1, len(data.manifest().rows))
    except (ValueError, FileNotFoundError, HydraException) as error:  # hydra wraps what a constructor raises
        sys.exit(f"cache: {error.__cause__ or error}")


def composed(overrides: list[str]) -> DictConfig:
    """train.py's config; ValueError for what can be known to be wrong before anything is loaded."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides)
    if missing := sorted(key for key in OmegaConf.missing_keys(cfg) if key.startswith(("data", "model"))):
        raise ValueError(f"{missing[0]} is not set: add {missing[0]}=... to the command")
    check_numbers(cfg)
    model = instantiate(cfg.model)
    model.check()
    fitting(model)
    return cfg


def user_rows(cfg: DictConfig) -> UserRows:
    data = instantiate(cfg.data)
    if not isinstance(data, UserRows):
        raise ValueError(f"data={cfg.data._target_.split('.')[-1]} has no rows to encode: use data=pairs, anchors or prompts")
    return data


def run(cfg: DictConfig, data: UserRows, share: Share, report: Path | None = None) -> None:
    """Encodes one share and says how fast it went; exits with 1 if rows turned out to be bad."""
    from apo.policies.encoder import WanEncoder  # diffusers takes seconds

    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    rows = data.manifest().rows
    place = device("auto", share.local)
    encoder = WanEncoder(instantiate(cfg.model)).to(place)
    cache = LatentCache(data.cache_dir, fingerprint(encoder))
    cache.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    built = cache.build(rows, encoder, share.rank, share.world, Checksums(cache.folder, f"rank{share.rank}of{share.world}"))
    seconds = time.perf_counter() - began
    there = len(built.names) - built.encoded
    print(f"share {share.rank + 1} of {share.world} on {place}: {throughput(built.encoded, there, seconds)} -> {cache.folder}", flush=True)
    if report is not None:
        report.write_text(json.dumps({"encoded": built.encoded, "there": there}))
    if built.problems:
        sys.exit(f"cache: {ManifestError(data.path, built.problems)}")


def device(accelerator: str, local: int) -> torch.device:
    """One GPU a process in turn, where there are any; accelerator=cpu: none."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local % torch.cuda.device_count())


def throughput(encoded: int, there: int, seconds: float) -> str:
    return f"{encoded} rows encoded, {there} were there and sound; {seconds:.1f} s, {encoded / max(seconds, 1e-9):.2f} rows/s"


def coordinate(overrides: list[str], workers: int, rows: int) -> None:
    """Starts the workers and waits for all of them, whatever becomes of any."""
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        reports = [Path(folder) / str(rank) for rank in range(workers)]
        started = [
            subprocess.Popen([sys.executable, "-m", "apo.data.cache", "--share", f"{rank}/{workers}/{report}", *overrides])
            for rank, report in enumerate(reports)
        ]
        for rank, process in enumerate(started):
            print(f"worker {rank + 1} of {workers}: process {process.pid}", flush=True)
        try:
            codes = [process.wait() for process in started]
        finally:
            for process in started:
                if process.poll() is None:
                    process.terminate()
        told = [json.loads(report.read_text()) for report in reports if report.is_file()]
    encoded, there = (sum(share[key] for share in told) for key in ("encoded", "there"))
    print(f"{workers} workers, {rows} rows: {throughput(encoded, there, time.perf_counter() - began)}")
    if failed := [f"worker {rank + 1} ended with {code}" for rank, code in enumerate(codes) if code]:
        sys.exit(f"cache: {', '.join(failed)}; the same command goes on with what is left")
