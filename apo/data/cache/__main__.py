"""Encodes the user's rows before training, on as many processes as there are; `python -m apo.data.cache` runs it.

    python -m apo.data.cache --workers 8 data=pairs data.path=pairs.jsonl model=wan22_i2v_a14b trainer=gpu
    torchrun --nproc-per-node 8 -m apo.data.cache data=pairs data.path=pairs.jsonl ...
    srun --ntasks-per-node 8 python -m apo.data.cache data=pairs data.path=pairs.jsonl ...

Processes share the folder and nothing else: one that dies leaves what it had, the others finish (under torchrun, which
then stops them, and srun --kill-on-bad-exit they don't), and the same command goes on with the rest. Every file found
is held against its checksum.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from omegaconf import DictConfig

from apo.data.cache.store import LatentCache, fingerprint
from apo.data.command import built, composed
from apo.data.manifest import ManifestError
from apo.data.pairs import UserRows
from apo.data.shares import Share, from_environment
from apo.distributed import device
from apo.errors import INTERRUPTED, UserError, one_line
from apo.parts import Setting
from apo.policies.architecture import fitting


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="apo.data.cache", description=__doc__.splitlines()[0], epilog="The rest: train.py's overrides."
    )
    parser.add_argument("--workers", type=int, help="processes on this machine; torchrun and srun say it themselves")
    parser.add_argument("--share", help=argparse.SUPPRESS)  # what a worker is started with: rank/world/report file
    given, overrides = parser.parse_known_args()
    with one_line("cache"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is Ctrl-C: the workers end, too
        try:
            encode_all(given, overrides)
        except KeyboardInterrupt:
            if given.share:  # whoever started this worker says it
                sys.exit(INTERRUPTED)
            raise


def encode_all(given: argparse.Namespace, overrides: list[str]) -> None:
    """UserError for what is wrong with the command or the manifest."""
    cfg, launched = configured(overrides), from_environment(os.environ)
    if given.workers is not None and (launched or given.workers < 1):
        raise UserError(f"--workers {given.workers}: give at least 1, and leave it out under torchrun and srun")
    if 0 < (gpus := torch.cuda.device_count()) < (given.workers or 1):
        raise UserError(
            f"--workers {given.workers}: one a GPU, and there are {gpus}; CUDA_VISIBLE_DEVICES= encodes on CPUs"
        )
    data = user_rows(cfg)
    if given.share:
        rank, world, report = given.share.split("/", 2)
        run(cfg, data, Share(int(rank), int(world), int(rank)), Path(report))
        return
    data.check(Setting(built(cfg.model).spec))
    if launched:
        run(cfg, data, launched)
    else:
        coordinate(overrides, given.workers or 1, len(data.manifest().rows))


def configured(overrides: list[str]) -> DictConfig:
    """train.py's config; UserError for what can be known to be wrong before anything is loaded."""
    cfg = composed(overrides)
    model = built(cfg.model)
    try:
        model.check()
        fitting(model)
    except ValueError as error:
        raise UserError(str(error)) from error
    return cfg


def user_rows(cfg: DictConfig) -> UserRows:
    data = built(cfg.data)
    if not isinstance(data, UserRows):
        raise UserError(
            f"data={cfg.data._target_.split('.')[-1]} has no rows to encode: use data=pairs, anchors or prompts"
        )
    return data


def run(cfg: DictConfig, data: UserRows, share: Share, report: Path | None = None) -> None:
    """Encodes one share and says how fast it went; ManifestError if rows turned out to be bad."""
    from apo.policies.encoder import WanEncoder  # diffusers takes seconds

    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    rows = data.manifest().rows
    place = device("auto", share.local)
    encoder = WanEncoder(built(cfg.model)).to(place)
    cache = LatentCache(data.cache_dir, fingerprint(encoder))
    cache.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    done = cache.build(rows, encoder, share.rank, share.world, thorough=True)
    seconds = time.perf_counter() - began
    there = len(done.names) - done.encoded
    print(
        f"share {share.rank + 1} of {share.world} on {place}: {throughput(done.encoded, there, seconds)} -> "
        f"{cache.folder}",
        flush=True,
    )
    if report is not None:
        report.write_text(json.dumps({"encoded": done.encoded, "there": there}))
    if done.problems:
        raise ManifestError(data.path, done.problems)


def throughput(encoded: int, there: int, seconds: float) -> str:
    rate = encoded / max(seconds, 1e-9)
    return f"{encoded} rows encoded, {there} were there and sound; {seconds:.1f} s, {rate:.2f} rows/s"


def coordinate(overrides: list[str], workers: int, rows: int) -> None:
    """Starts the workers and waits for all of them, whatever becomes of any."""
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        reports = [Path(folder) / str(rank) for rank in range(workers)]
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "apo.data.cache", "--share", f"{rank}/{workers}/{report}", *overrides],
                preexec_fn=lambda: signal.signal(
                    signal.SIGINT, signal.SIG_IGN
                ),  # Ctrl-C is this process's, which ends them below
            )
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
        counts = [json.loads(report.read_text()) for report in reports if report.is_file()]
    encoded, there = (sum(share[key] for share in counts) for key in ("encoded", "there"))
    print(f"{workers} workers, {rows} rows: {throughput(encoded, there, time.perf_counter() - began)}")
    if failed := [f"worker {rank + 1} ended with {code}" for rank, code in enumerate(codes) if code]:
        sys.exit(f"cache: {', '.join(failed)}; the same command goes on with what is left")


if __name__ == "__main__":
    main()
