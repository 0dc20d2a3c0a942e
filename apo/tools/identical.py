"""Whether a change of the code left training bit for bit as it was: `python -m apo.tools.identical` (make identical).

A few optimizer steps of every stage on one thread; the SHA-256 of each adapter file, and of the logged losses, must
equal those in identical.json, which `--record` writes. They depend on the processor and on the version of torch: record
on the machine where you compare, before the change.

    python -m apo.tools.identical                    # about 4 minutes; ends with 1 if something differs
    python -m apo.tools.identical --only 'distill'   # with the runs that these start from
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip

from apo.config.recorded import metrics
from apo.errors import UserError, one_line
from apo.io.files import write_text
from apo.places import ROOT

RECORD = Path(__file__).with_suffix(".json")
RUN = "identical"
SMALL = (
    "max_steps=3",
    "batch_size=2",
    "sample_every_n_steps=0",
    "checkpoint_every_n_steps=1",
    "validate_every_n_steps=3",
)
FEW = "data.count=24"
OFFLINE, DISTILLED = (f"adapter=outputs/{RUN}/{stage}/adapter" for stage in ("offline", "distill"))
SPLIT = "trainer.split_backward=true"
RUNS = {
    "offline": ["stage=offline", FEW],
    "offline_split": ["stage=offline", FEW, SPLIT],
    "no_window": ["stage=offline", FEW, "ablation=no_window", "max_steps=5"],
    "ipo": ["stage=offline", FEW, "objective=ipo", "sampler=uniform", "ema_decay=0.9"],
    "sft": ["stage=sft", FEW],
    "online": ["stage=online"],
    "online_ahead": ["stage=online_ahead"],
    "moving": [
        "stage=online",
        "module.reference_update_every_n_steps=1",
        "module.windows_per_pair=2",
        "max_steps=4",
        "checkpoint_every_n_steps=2",
        "validate_every_n_steps=4",
    ],
    "half_online": ["stage=half_online", "data.count=16"],
    "distill": ["stage=distill", FEW, OFFLINE],
    "distill_split": ["stage=distill", FEW, OFFLINE, SPLIT],
    "distill_dpo": ["stage=distill_dpo", FEW, DISTILLED],
    "ranker": ["stage=ranker", FEW],
}
BEFORE = {"distill": ["offline"], "distill_split": ["offline"], "distill_dpo": ["offline", "distill"]}
UNLIKE = ("time/", "train/lr")  # columns of metrics.csv: wall time, and what came after the first record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write what the runs give to identical.json")
    parser.add_argument("--only", default="", help="regular expression: runs whose names match")
    given = parser.parse_args()
    with one_line("identical"):
        chosen = [name for name in RUNS if re.search(given.only, name)]
        found = {name: digests(name) for name in ordered(chosen)}
        if given.record:
            write_text(
                RECORD,
                json.dumps(json.loads(RECORD.read_text() or "{}") | found if RECORD.exists() else found, indent=1)
                + "\n",
            )
        elif different := differing(found):
            raise UserError(f"{len(different)} of {len(found)} runs differ from {RECORD.name}: {', '.join(different)}")
        print(f"{len(found)} runs: {'recorded' if given.record else 'all equal'}")


def ordered(chosen: list[str]) -> list[str]:
    """With what they start from, in the order of RUNS."""
    needed = {*chosen, *(before for name in chosen for before in BEFORE.get(name, ()))}
    return [name for name in RUNS if name in needed]


def digests(name: str) -> dict[str, str]:
    """Trains anew; file of the adapter -> SHA-256, and `losses` -> that of what metrics.csv says."""
    folder = ROOT / "outputs" / RUN / name
    shutil.rmtree(folder, ignore_errors=True)
    given = [
        *SMALL,
        *RUNS[name],
        f"run={RUN}",
        f"hydra.run.dir=outputs/{RUN}/{name}",
        "trainer.threads=1",
        "logger=csv",
    ]
    done = subprocess.run([sys.executable, "train.py", *given], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"run {name} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "adapter").glob("*.safetensors"))
    }
    found["losses"] = hashlib.sha256(repr(losses(folder)).encode()).hexdigest()
    print(f"{name:14} {' '.join(value[:12] for value in found.values())}", flush=True)
    return found


def losses(folder: Path) -> list[list[tuple[str, str]]]:
    """The columns of metrics.csv that a change of the code must not change, row by row."""
    return [
        sorted((key, value) for key, value in row.items() if not key.startswith(UNLIKE))
        for row in metrics(folder / "metrics.csv")
    ]


def differing(found: dict[str, dict[str, str]]) -> list[str]:
    recorded = json.loads(RECORD.read_text())
    return [name for name, values in found.items() if values != recorded.get(name)]


if __name__ == "__main__":
    main()
