"""`python -m apo.data.cache` with real processes, one of them killed, over a tiny random pipeline."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from apo.data.cache import __main__ as precompute
from apo.data.shares import Share, from_environment
from apo.errors import INTERRUPTED
from apo.io.checksums import Checksums, Digests, file_digest
from tests.clips import write_manifest
from tests.data.clips import contents

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def command(tmp_path_factory, wan22_folder):
    """cache folder, *more -> the command line, over 16 pairs."""
    manifest = write_manifest(tmp_path_factory.mktemp("data"), 16)

    def build(folder: Path, *more: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "apo.data.cache",
            "data=pairs",
            f"data.path={manifest}",
            f"data.cache_dir={folder}",
            f"model.path={wan22_folder}",
            "model.spec={height: 32, width: 48, frames: 9, fps: 8}",
            "trainer.threads=1",
            *more,
        ]

    return build


def execute(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=os.environ | environment)


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory) -> Path:
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("whole")
    result = execute(command(folder))
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.search(
        r"1 workers, 16 rows: 16 rows encoded, 0 were there and sound; [\d.]+ s, [\d.]+ rows/s", result.stdout
    )
    return folder


def lists(folder: Path, worker: str) -> int:
    """How many files a worker has recorded."""
    return sum(file.read_text().count("safetensors") for file in folder.rglob(f"{worker}.sha256"))


def test_a_killed_worker_costs_its_own_rest_and_the_same_command_completes(command, whole, tmp_path):
    process = subprocess.Popen(
        command(tmp_path, "--workers", "2"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started = [int(re.search(r"process (\d+)", process.stdout.readline())[1]) for _ in range(2)]
    deadline = time.time() + 800
    while lists(tmp_path, "rank1of2") == 0:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.002)
    os.kill(started[1], signal.SIGKILL)
    out, error = process.communicate(timeout=800)
    assert process.returncode == 1 and "worker 2 ended with -9; the same command goes on" in error
    assert "share 1 of 2 on cpu: 8 rows encoded" in out  # the other one finished
    done = lists(tmp_path, "rank1of2")
    assert 1 <= done < 8
    result = execute(command(tmp_path, "--workers", "2"))
    assert result.returncode == 0, result.stderr[-3000:]
    encoded, there = map(int, re.search(r"16 rows: (\d+) rows encoded, (\d+) were there", result.stdout).groups())
    assert encoded + there == 16 and done <= there - 8 <= done + 1  # a file may have been written and not yet recorded
    assert contents(tmp_path) == contents(whole)


def test_a_damaged_byte_is_found_and_only_its_file_made_anew(command, whole, tmp_path):
    before = contents(whole)
    victim = sorted(whole.rglob("*.safetensors"))[3]
    data = bytearray(victim.read_bytes())
    data[-7] ^= 1  # in a tensor: the header is sound
    victim.write_bytes(data)
    assert contents(whole) != before
    result = execute(command(whole), RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")  # as torchrun starts it
    assert result.returncode == 0, result.stderr[-3000:]
    assert "share 1 of 1 on cpu: 1 rows encoded, 15 were there" in result.stdout and contents(whole) == before


def test_training_reads_what_was_computed(command, whole, wan22_folder):
    from hydra.utils import instantiate

    from apo.data.command import composed
    from apo.policies.wan import WanPolicy

    cfg = composed(command(whole)[3:])
    policy = WanPolicy(instantiate(cfg.model), {"rank": 1, "alpha": 1, "targets": ["to_q"]}, None, 0, False)
    policy.encode = None  # nothing is left to encode
    split = instantiate(cfg.data).prepare(policy)
    assert len(split.train) + len(split.validation) == 16
    assert split.train[0]["chosen"].isfinite().all() and split.train[0]["chosen"].dtype == torch.float32


def test_mistakes_end_with_the_key_before_a_model_is_loaded(command, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "chosen": "x.mp4", "rejected": "y.mp4"}')
    for more, said in [
        (["data.path=nowhere.jsonl"], "nowhere.jsonl: no such manifest"),
        ([f"data.path={bad}"], "1 bad row\n  line 1: .*x.mp4"),
        (["--workers", "0"], "--workers 0: give at least 1"),
    ]:
        result = execute(command(tmp_path / "cache", *more))
        assert result.returncode == 1 and "Traceback" not in result.stderr and re.search(said, result.stderr), (
            result.stderr
        )
    result = execute([sys.executable, "-m", "apo.data.cache"])
    assert "data=WorldPairs has no rows to encode: use data=pairs" in result.stderr


def test_shares_come_from_torchrun_or_srun_and_not_from_sbatchs_own_shell():
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3"}
    assert from_environment(torchrun | slurm) == Share(5, 8, 1)
    assert from_environment(slurm | {"SLURM_STEP_ID": "0"}) == Share(3, 4, 3)
    assert from_environment(slurm) is None and from_environment({}) is None
    assert (
        from_environment({"WORLD_SIZE": "8", "LOCAL_RANK": "1", "NODE_RANK": "0"}) is None
    )  # a child that Lightning started


def test_checksums_take_either_writers_bytes_and_no_half_line(tmp_path):
    file = tmp_path / "a.safetensors"
    for rank, data in enumerate((b"one", b"two")):
        file.write_bytes(data)
        Checksums(tmp_path, f"rank{rank}").record(file)
    (tmp_path / "rank2.sha256").write_text("0123abc")  # died while writing
    again = Checksums(tmp_path, "rank2")
    assert again.holds(file)
    (tmp_path / "unknown.safetensors").write_bytes(b"four")  # is believed once, and known from then on
    assert again.holds(tmp_path / "unknown.safetensors")
    (tmp_path / "unknown.safetensors").write_bytes(b"f0ur")
    assert not again.holds(tmp_path / "unknown.safetensors")
    file.write_bytes(b"one")
    assert again.holds(file)
    file.write_bytes(b"on3")
    assert not again.holds(file)
    again.record(file)
    assert Checksums(tmp_path, "rank3").holds(file)


def test_a_files_digest_is_computed_again_only_when_it_has_changed(tmp_path, monkeypatch):
    file, read = tmp_path / "video.mp4", []
    file.write_bytes(b"one")
    monkeypatch.setattr("apo.io.checksums.file_digest", lambda path: read.append(path) or file_digest(path))
    first = Digests(tmp_path, "0of2")
    assert first(file) == first(file) == hashlib.sha256(b"one").hexdigest() and len(read) == 1
    with first.list.open("a") as half:
        half.write('["/died/while/wri')
    assert Digests(tmp_path, "1of2")(file) == first(file) and len(read) == 1  # another writer's
    file.write_bytes(b"two")
    assert Digests(tmp_path, "0of2")(file) == hashlib.sha256(b"two").hexdigest()
    assert (
        Digests(tmp_path, "0of1")(file) == hashlib.sha256(b"two").hexdigest() and len(read) == 2
    )  # whichever list is read last


def test_damaged_lists_are_lists_of_what_is_left_in_them(tmp_path):
    file = tmp_path / "video.mp4"
    file.write_bytes(b"one")
    good = hashlib.sha256(b"one").hexdigest()
    Checksums(tmp_path, "a").record(file)
    Digests(tmp_path, "a")(file)
    hostile = [
        "5",
        "null",
        "[" * 100_000,
        '[["a"], 1, 2]',
        '["a", [1, 2, 3], "short"]',
        '["a", null, null]',
        '{"a": 1}',
        "\0\0",
        '"a"',
    ]
    for name in ("b.digests", "b.sha256"):
        (tmp_path / name).write_bytes(b"\xff\xfe\n" + "\n".join(hostile).encode())
    assert Digests(tmp_path, "c")(file) == good and Checksums(tmp_path, "c").holds(file)
    assert (
        Digests(tmp_path, "c").known.keys() == Digests(tmp_path, "d").known.keys()
        and len(Digests(tmp_path, "d").known) == 1
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys, number):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("sys.argv", ["cache", "data=pairs"])
    monkeypatch.setattr(precompute, "encode_all", lambda *_: signal.raise_signal(number))
    try:
        with pytest.raises(SystemExit) as ended:
            precompute.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == INTERRUPTED and capsys.readouterr().err.startswith(
        "\ninterrupted; the same command continues: "
    )


def test_more_workers_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("sys.argv", ["cache", "--workers", "8", "data=pairs", "data.path=pairs.jsonl"])
    with pytest.raises(
        SystemExit, match="--workers 8: one a GPU, and there are 1; CUDA_VISIBLE_DEVICES= encodes on CPUs"
    ):
        precompute.main()
