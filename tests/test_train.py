"""The real command on tiny random weights: stop and resume, two processes, mistakes."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from apo.io.files import HOST
from tests.clips import write_manifest
from tests.commands import ROOT, adapter, execute, metrics, short, train, wait_for_steps


@pytest.fixture(scope="module")
def command(tmp_path_factory, wan22_folder):
    """run, *overrides -> the command line of a short offline run on a manifest, its folder below a temporary one."""
    home = tmp_path_factory.mktemp("runs")
    manifest = write_manifest(home / "data", 6)

    def build(run: str, *overrides: str) -> list[str]:
        return train(*short(home, wan22_folder, manifest, run), *overrides)

    build.home = home
    return build


def kill(command: list[str], folder: Path, rows: int) -> None:
    """Starts a run and kills it once it has a checkpoint and that many rows of metrics."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while not ((folder / "checkpoints" / "last.ckpt").exists() and len(metrics(folder)) >= rows):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def whole(command):
    """The folder of a run without interruptions."""
    execute(command("whole"))
    return command.home / "whole"


def test_killed_and_resumed_equals_uninterrupted(command, whole):
    killed = command.home / "killed"
    kill(command("killed"), killed, 6)
    assert not (killed / "adapter").exists() and len(metrics(killed)) < 24
    execute(command("killed"))
    assert metrics(killed) == metrics(whole) and len(metrics(whole)) == 24
    assert adapter(killed) == adapter(whole) and len(adapter(whole)) == 2
    assert "finished already" in execute(command("killed")).stdout


def test_a_second_process_is_refused_and_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(command, whole):
    folder = command.home / "damaged"
    process = subprocess.Popen(command("damaged"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_steps(process, folder, 10)
    process.send_signal(signal.SIGSTOP)  # the second one takes longer to start than the first to end
    second = subprocess.run(command("damaged"), cwd=ROOT, capture_output=True, text=True, timeout=240)
    process.kill()
    process.wait()
    assert second.returncode == 1 and "Traceback" not in second.stderr
    assert f"config: {folder} is in use by process {process.pid} on " in second.stderr
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    last.with_name(
        f".last.ckpt.{HOST}-{process.pid}-01234567.tmp"
    ).touch()  # what a kill in the middle of a save leaves
    assert "last.ckpt is damaged" in execute(command("damaged")).stderr
    assert metrics(folder) == metrics(whole) and adapter(folder) == adapter(whole)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
    assert not list(folder.glob(".*.tmp")) and not (folder / ".lock").exists()


def test_parts_that_stay_in_cpu_memory_change_nothing(command, whole):
    more = ("trainer.offload=true", f"data.cache_dir={command.home}/offloaded_cache", "sample_every_n_steps=12")
    execute(command("offloaded", *more))
    folder = command.home / "offloaded"
    assert metrics(folder) == metrics(whole) and adapter(folder) == adapter(whole)
    assert len(list(folder.glob("samples/*/*.mp4"))) == 8


def test_told_to_stop_it_saves_the_step_and_asks_to_be_requeued(command, whole):
    folder, rare = command.home / "told", "checkpoint_every_n_steps=100"
    marked = {"env": os.environ | {"APO_STOPPED": str(command.home / "mark")}}  # for experiments/slurm/train.sbatch
    process = subprocess.Popen(
        command("told", rare), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **marked
    )
    wait_for_steps(process, folder, 3)
    process.send_signal(signal.SIGUSR1)
    error = process.communicate(timeout=240)[1]
    assert process.returncode == 75 and "told to stop" in error and "Traceback" not in error
    steps = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert (
        (command.home / "mark").exists()
        and 3 <= steps == len(metrics(folder)) < 24
        and not (folder / "adapter").exists()
    )
    execute(command("told", rare))
    assert metrics(folder) == metrics(whole) and adapter(folder) == adapter(whole)


def test_one_rank_told_stops_all(command):
    folder, two = command.home / "told_two", ("trainer=ddp", "max_steps=200", "checkpoint_every_n_steps=1000")
    process = subprocess.Popen(
        command("told_two", *two), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for_steps(process, folder, 2)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=240)[1]  # ends once all that hold the pipe have ended
    assert process.returncode == 75 and "Traceback" not in error
    steps = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 2 <= steps == len(metrics(folder)) < 200


def test_two_processes_equal_one_with_twice_the_batch(command):
    # SGD, so that the adapters are as far apart as the gradients: Adam blows up the rounding of gradients near zero
    same = (
        "max_steps=3",
        "max_grad_norm=1e9",
        "optimizer._target_=torch.optim.SGD",
        "~optimizer.betas",
        "optimizer.lr=1e-3",
    )
    execute(command("one", "batch_size=4", *same))
    execute(command("two", "batch_size=2", *same, "trainer=ddp"))
    one, two = metrics(command.home / "one"), metrics(command.home / "two")
    for a, b in zip(one, two, strict=True):
        for key in ("train/loss", "train/grad_norm", "train/margin"):
            assert_close(float(b[key]), float(a[key]), rtol=2e-3, atol=1e-6)
    for name in ("high_noise.safetensors", "low_noise.safetensors"):
        ours, theirs = (load_file(command.home / run / "adapter" / name) for run in ("two", "one"))
        for key in theirs:
            assert_close(ours[key], theirs[key], rtol=1e-3, atol=2e-6)


def test_sft_runs(command):
    folder = command.home / "sft"
    execute(command("sft", "stage=sft", "max_steps=3"))
    assert len(metrics(folder)) == 3 and len(adapter(folder)) == 2


@pytest.fixture(scope="module")
def on_policy(command):
    """run, *overrides -> the command line of a short run in which the shipped baseline generates."""

    def build(run: str, *overrides: str) -> list[str]:
        return [
            sys.executable,
            "train.py",
            f"run={run}",
            f"hydra.run.dir={command.home}/{run}",
            "model.num_inference_steps=4",
            "max_steps=6",
            "checkpoint_every_n_steps=4",
            "sample_every_n_steps=0",
            "batch_size=2",
            "policy.lora.rank=2",
            "trainer.threads=1",
            *overrides,
        ]

    return build


@pytest.mark.parametrize(
    "stage, done", [("online", 3), ("online_ahead", 4)]
)  # ahead, the answer is asked for a step later
def test_a_ranker_that_dies_stops_an_online_run_and_the_same_command_resumes_it(command, on_policy, stage, done):
    # an error rate and a moving reference, so that a resume has to repeat those too
    online = (f"stage={stage}", "ranker.error_rate=0.3", "module.reference_update_every_n_steps=3")
    mortal = (
        "ranker._target_=tests.sources.rankers.MortalOracle",
        f"+ranker.mark={command.home}/{stage}_mark",
        "+ranker.call=4",
    )
    execute(on_policy(stage, *online))
    whole, killed = command.home / stage, command.home / f"mortal_{stage}"
    result = subprocess.run(
        on_policy(killed.name, *online, *mortal), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode != 0
    assert "config: the ranker gave no verdict (ConnectionError: the server is gone)" in result.stderr
    saved = torch.load(killed / "checkpoints" / "last.ckpt", weights_only=False)
    assert saved["global_step"] == done and not (killed / "adapter").exists()  # though at 3 none was due
    execute(on_policy(killed.name, *online, *mortal))
    assert metrics(killed) == metrics(whole) and len(metrics(whole)) == 6
    assert adapter(killed) == adapter(whole) and len(adapter(whole)) == 2
    with (whole / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(float(row[f"time/{part}"]) > 0 for row in rows for part in ("generate", "rank", "optimize"))
    assert [abs(float(row["train/margin"])) == 0 for row in rows] == [True, False, False] * 2


def test_two_online_processes_equal_one_with_twice_the_batch(command, on_policy):
    same = (
        "stage=online",
        "max_steps=2",
        "max_grad_norm=1e9",
        "optimizer._target_=torch.optim.SGD",
        "~optimizer.betas",
        "optimizer.lr=1e-3",
        "module.pairs.rollout.batch_size=2",
    )
    execute(on_policy("online_one", "batch_size=4", *same))
    execute(on_policy("online_two", "batch_size=2", *same, "trainer=ddp"))
    one, two = metrics(command.home / "online_one"), metrics(command.home / "online_two")
    for a, b in zip(one, two, strict=True):
        for key in ("train/loss", "train/grad_norm", "train/margin", "rank/confidence", "rank/distortion"):
            assert_close(float(b[key]), float(a[key]), rtol=2e-3, atol=1e-5)


def test_a_half_online_run_killed_and_resumed_equals_an_uninterrupted_one(command, on_policy):
    half = (
        "stage=half_online",
        "data.count=10",
        "data.batch_size=8",
        f"data.cache_dir={command.home}/anchors",
        "max_steps=12",
        "model.num_inference_steps=6",
        "checkpoint_every_n_steps=2",
    )
    execute(on_policy("half", *half))
    whole, killed = command.home / "half", command.home / "half_killed"
    kill(on_policy("half_killed", *half), killed, 3)
    assert len(metrics(killed)) < 12
    execute(on_policy("half_killed", *half))
    assert metrics(killed) == metrics(whole) and len(metrics(whole)) == 12
    assert adapter(killed) == adapter(whole) and len(adapter(whole)) == 2
    shares = [float(row["rank/positive"]) for row in metrics(whole)]
    assert sum(shares) * 2 == 14  # of 24 anchors, 0.6 to within one


@pytest.mark.parametrize(
    "override, said",
    [
        ("sampler.nope=1", "nope"),
        ("sampler=nope", "there are apo, logit_normal, uniform"),
        ("data.path=nowhere.jsonl", "config: .*nowhere.jsonl"),
    ],
)
def test_mistakes_end_with_the_key_and_no_traceback(command, override, said):
    began = time.time()
    result = subprocess.run(command("wrong", override), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert re.search(said, result.stderr), result.stderr
    assert time.time() - began < 60
