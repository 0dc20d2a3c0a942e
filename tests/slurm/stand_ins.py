"""srun, sbatch, scontrol, scancel and sacct for one machine: shell scripts to put on PATH. They write what they were
asked to $STAND_INS/calls.
"""

import os
from pathlib import Path

SCRIPTS = {
    # runs the command once for each node, at the same time; fails if one of them does
    "srun": """
out=
while [[ $1 == --* ]]; do
    case $1 in --output|--error) [[ $1 == --output ]] && out=$2; shift 2;; *) shift;; esac
done
export SLURM_STEP_ID=0 SLURM_NTASKS=${SLURM_NNODES:-1} SLURM_NTASKS_PER_NODE=1 SLURM_LOCALID=0
[[ -n $out ]] && { out=${out//%A/$SLURM_ARRAY_JOB_ID}; out=${out//%a/$SLURM_ARRAY_TASK_ID}; exec >>"${out//%t/0}" 2>&1; }
pids=()
for ((node = 0; node < ${SLURM_NNODES:-1}; node++)); do
    SLURM_NODEID=$node SLURM_PROCID=$node "$@" & pids+=($!)
done
echo "${pids[@]}" >"$STAND_INS/step"
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit $code
""",
    "scancel": 'kill -USR1 $(cat "$STAND_INS/step")\n',
    "scontrol": "[[ $1 == show ]] && echo localhost\nexit 0\n",
    # runs the array's tasks one after another, in the background
    "sbatch": """
script=${!#}
cp "$script" "$STAND_INS/submitted.sh"
(
    for task in 0 1; do
        SLURM_JOB_ID=$((4711 + task)) SLURM_ARRAY_JOB_ID=4711 SLURM_ARRAY_TASK_ID=$task SLURM_NNODES=1 SLURM_JOB_NODELIST=localhost \\
            bash "$script"
    done
) </dev/null >"$STAND_INS/log" 2>&1 &
echo Submitted batch job 4711
""",
    "sacct": "echo 'JobID|State|NodeList'; echo '4711_0|RUNNING|localhost'; echo '4711_1|RUNNING|localhost'\n",
}


def installed(folder: Path) -> dict[str, str]:
    """An environment in which they are found first."""
    for name, script in SCRIPTS.items():
        (folder / name).write_text(f'#!/bin/bash\necho "{name} $*" >>"$STAND_INS/calls"\n{script.lstrip()}')
        (folder / name).chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    return clean | {"PATH": f"{folder}:{os.environ['PATH']}", "STAND_INS": str(folder)}


def calls(folder: Path, name: str) -> list[str]:
    """What a stand-in was asked, each time."""
    lines = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]
