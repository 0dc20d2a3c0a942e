"""`hydra/launcher=submitit_slurm` under stand-ins for sbatch, srun and sacct: the array that it
submits, and its runs.
"""

import subprocess

from tests.clips import write_manifest
from tests.commands import ROOT, adapter, metrics, short, train
from tests.slurm.stand_ins import calls, installed


def test_a_sweep_is_an_array_of_jobs_that_may_be_requeued(tmp_path, wan22_folder):
    folder = tmp_path / "bin"
    folder.mkdir()
    overrides = short(tmp_path, wan22_folder, write_manifest(tmp_path / "data", 6), "swept")
    overrides += [
        "max_steps=2",
        f"hydra.sweep.dir={tmp_path}/swept",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=gpu",
    ]
    overrides += ["hydra.sweep.subdir=seed_${seed}", "seed=0,1"]
    result = subprocess.run(
        train("-m", *overrides), cwd=ROOT, env=installed(folder), capture_output=True, text=True, timeout=1800
    )
    log = (folder / "log").read_text() if (folder / "log").exists() else ""
    assert result.returncode == 0, result.stderr[-3000:] + log
    script = (folder / "submitted.sh").read_text()
    for option in (
        "array=0-1%2",
        "partition=gpu",
        "nodes=1",
        "ntasks-per-node=1",
        "signal=USR2@120",
        "time=1440",
        "open-mode=append",
    ):
        assert f"#SBATCH --{option}" in script
    assert "gpus-per-node" not in script and "srun --unbuffered --output" in script
    assert len(calls(folder, "sbatch")) == 1 and len(calls(folder, "srun")) == 2
    for seed in (0, 1):
        run = tmp_path / "swept" / f"seed_{seed}"
        assert len(metrics(run)) == 2 and len(adapter(run)) == 2
    assert adapter(tmp_path / "swept" / "seed_0") != adapter(tmp_path / "swept" / "seed_1")
