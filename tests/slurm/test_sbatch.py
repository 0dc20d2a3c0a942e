"""The sbatch script under stand-ins for SLURM, with real torchruns and training processes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clips import write_manifest
from tests.commands import ROOT, adapter, metrics, short, wait_for_steps
from tests.slurm.stand_ins import calls, installed

SCRIPT = "experiments/slurm/train.sbatch"


@pytest.fixture
def job(tmp_path):
    """more environment -> what SLURM would set for a job on two nodes, with the stand-ins on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    slurm = {
        "SLURM_JOB_ID": "4711",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "TORCHRUN": str(Path(sys.executable).parent / "torchrun"),
        "OMP_NUM_THREADS": "1",
    }

    def environment(**more: str) -> dict[str, str]:
        return installed(folder) | slurm | more

    environment.folder = folder
    return environment


def test_two_nodes_told_to_stop_are_requeued_and_finish(job, tmp_path, wan22_folder):
    manifest = write_manifest(tmp_path / "data", 6)
    overrides = [
        *short(tmp_path, wan22_folder, manifest, "two"),
        "trainer=ddp",
        "max_steps=60",
        "checkpoint_every_n_steps=1000",
    ]
    process = subprocess.Popen(["bash", SCRIPT, *overrides], cwd=ROOT, env=job(), stderr=subprocess.PIPE, text=True)
    wait_for_steps(process, tmp_path / "two", 2)
    process.send_signal(signal.SIGUSR1)  # as --signal=B: does
    error = process.communicate(timeout=900)[1]
    assert calls(job.folder, "scontrol")[-1] == "requeue 4711" and process.returncode == 0, error
    assert calls(job.folder, "scancel") == ["--signal=USR1 4711"]
    done = len(metrics(tmp_path / "two"))
    assert 2 <= done < 60 and (tmp_path / "two" / "checkpoints" / "last.ckpt").exists()
    result = subprocess.run(
        ["bash", SCRIPT, *overrides],
        cwd=ROOT,
        env=job(SLURM_RESTART_COUNT="1"),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(metrics(tmp_path / "two")) == 60 and len(adapter(tmp_path / "two")) == 2
    assert sum(call.startswith("requeue") for call in calls(job.folder, "scontrol")) == 1
    assert "--nnodes 2 --nproc-per-node 1 --rdzv-id 4711.1" in calls(job.folder, "srun")[1]
    assert "trainer.nodes=2 trainer.devices=1" in calls(job.folder, "srun")[1]


@pytest.mark.parametrize(
    "code, leaves, requeued", [(75, False, True), (1, False, False), (1, True, True), (0, False, False)]
)
def test_only_a_run_that_asks_for_it_is_requeued(job, tmp_path, code, leaves, requeued):
    """leaves: what a run leaves that was told to stop by a preemption, of which this shell knows nothing."""
    program = tmp_path / "torchrun"
    program.write_text("#!/bin/bash\n" + leaves * 'touch "$APO_STOPPED"\n' + f"exit {code}\n")
    program.chmod(0o755)
    result = subprocess.run(["bash", SCRIPT], cwd=ROOT, env=job(TORCHRUN=str(program)), capture_output=True, text=True)
    assert ("requeue 4711" in calls(job.folder, "scontrol")) is requeued
    assert result.returncode == (0 if requeued else code), result.stderr
    assert not list(ROOT.glob(".stopped-*"))


def test_the_script_asks_slurm_for_what_its_trap_counts_on():
    text = (ROOT / SCRIPT).read_text()
    asked = {line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {"--signal=B:USR1@600", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= asked
