"""The hyperparameter search on validation conditions, the same for every arm: `make search`.

One coordinate after another (learning rate, β, rank, batch at equal compute), the others at the best found so far; a
setting's score is its distortion rate there, among settings that keep 0.95 of the baseline's dynamic degree. What is
trained and evaluated already is not done again, so an interrupted search goes on.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
from hydra import compose, initialize_config_dir

from apo.intervals import wilson

ARMS = ("apo", "diffusion_dpo", "wo_rs_ro", "uniform_window", "no_window", "high_only", "low_only")
COORDINATES = {
    "optimizer.lr": (3e-4, 1e-4),
    "objective.beta": (500, 1000),
    "policy.lora.rank": (16, 4),
    "batch_size": (8, 16),  # with max_steps so that the videos seen stay as many
}
DYNAMICS = 0.95  # of the baseline's, at least
ROOT = Path(__file__).parents[2]


@dataclass
class Search:
    """outputs/<run>/<arm>-<settings>, each trained with one seed and evaluated on `count` validation conditions."""

    run: str
    count: int
    threads: int
    arms: Sequence[str]
    found: dict[str, list[dict]] = field(init=False)

    def __post_init__(self):
        self.found = {arm: [] for arm in self.arms}
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            self.pairs = {
                arm: (cfg := compose("train", [f"ablation={arm}"])).max_steps * cfg.batch_size for arm in self.arms
            }

    def best(self, arm: str) -> None:
        """The coordinate search of one arm; its settings are in `found`, in the order in which they were tried."""
        best = self.score(arm, {key: values[0] for key, values in COORDINATES.items()})
        for key, values in COORDINATES.items():
            tried = [best] + [self.score(arm, best["settings"] | {key: value}) for value in values[1:]]
            best = min(tried, key=lambda row: (not row["moves"], row["distorted"], -row["followed"]))
        best["chosen"] = True

    def score(self, arm: str, settings: dict) -> dict:
        """Trains and evaluates one setting."""
        name = "-".join([arm, *(f"{key.split('.')[-1]}_{value:g}" for key, value in settings.items())])
        steps = round(self.pairs[arm] / settings["batch_size"])
        overrides = [f"{key}={value}" for key, value in settings.items()] + [
            f"max_steps={steps}",
            f"trainer.threads={self.threads}",
        ]
        folder = Path("outputs") / self.run / name
        call(
            "train.py",
            f"run={self.run}",
            f"hydra.run.dir={folder}",
            f"ablation={arm}",
            "sample_every_n_steps=0",
            *overrides,
        )
        call(
            "evaluate.py",
            f"run={self.run}",
            f"stage={name}",
            f"trainer.threads={self.threads}",
            "videos=0",
            "conditions.split=validation",
            f"conditions.count={self.count}",
        )
        row = read(folder) | {"settings": settings, "chosen": False}
        row["moves"] = row["dynamics"] >= DYNAMICS * read(folder.parent / "baseline")["dynamics"]
        self.found[arm].append(row)
        print(f"{name}: {100 * row['distorted']:.1f} % distorted", flush=True)
        return row


def call(script: str, *arguments: str) -> None:
    """Runs a script of the repository; SystemExit with the end of what it said if it fails."""
    done = subprocess.run(
        [sys.executable, script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(arguments)}\n{done.stdout[-2000:]}")


def read(folder: Path) -> dict:
    report = json.loads((folder / "eval_validation" / "report.json").read_text())
    names = {"distortion_rate": "distorted", "dynamic_degree": "dynamics", "instruction_following": "followed"}
    values = {ours: report["metrics"][theirs]["value"] for theirs, ours in names.items()}
    return values | {"n": report["n"], "against": report.get("against", {})}


def table(found: dict[str, list[dict]]) -> str:
    """Markdown; chosen settings in bold."""
    lines = [
        "| arm | learning rate | β | rank | batch | distorted | dynamic degree | instruction following | win/tie/loss |"
    ]
    lines.append("|---" * 9 + "|")
    for arm, rows in found.items():
        for row in rows:
            interval = wilson(round(row["distorted"] * row["n"]), row["n"])
            settings = [f"{value:g}" for value in row["settings"].values()]
            rate = f"{100 * interval.value:.1f} % ({100 * interval.low:.1f}-{100 * interval.high:.1f})"
            against = "/".join(str(row["against"].get(key, "")) for key in ("win", "tie", "loss"))
            cells = [arm, *settings, rate, f"{row['dynamics']:.3f}", f"{100 * row['followed']:.1f} %", against]
            lines.append("| " + " | ".join(f"**{cell}**" if row["chosen"] else cell for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="search", help="folder in outputs/")
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--count", type=int, default=192, help="validation conditions")
    parser.add_argument("--jobs", type=int, default=2, help="arms at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each")
    args = parser.parse_args()
    search = Search(args.run, args.count, args.threads, args.arms)
    call(
        "evaluate.py",
        f"run={args.run}",
        "stage=null",
        f"trainer.threads={args.threads}",
        "videos=0",
        "conditions.split=validation",
        f"conditions.count={args.count}",
    )
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(search.best, args.arms))
    text = table(search.found)
    (Path("outputs") / args.run / "search.md").write_text(text + "\n")
    print(text)
