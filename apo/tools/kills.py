"""Random SIGKILLs over every stage, evaluation, export, the cache and the world's pairs: `python -m apo.tools.kills`.

Each target is run once without interruption. Then it is killed (the whole process group) at moments drawn uniformly
over its run time, started again by the same command, killed again, ..., and at last left to end. What it leaves must
equal, file for file and bit for bit, what the uninterrupted run left (times and logs aside), and no file more; no more
steps may be done twice than lie between checkpoints.

    python -m apo.tools.kills --count 200 --jobs 2        # a summary; each run in outputs/tools/kills/results.csv
    python -m apo.tools.kills --targets offline,export --count 20 --real

The same command continues. Commands are forked from a process that has imported the libraries (`--real`: new
interpreters), so that kills fall into what they do, not into what they import.
"""

import argparse
import csv
import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from apo.io.files import write_json
from apo.tools.inputs import KINDS, ROOT, working_tree, write_manifests, write_ranking_model
from apo.tools.kill_targets import INTERVAL, Target, targets
from apo.tools.leftovers import done_twice, files, rows
from apo.tools.stages import VLM
from apo.tools.warm import Done, Real, Warm

HOME = Path("outputs/tools/kills")
LIMIT_S, MOST = 600, 4  # of a run; kills before it is left to end


@dataclass(frozen=True)
class Cycle:
    """Kills of a target until it was left to end. lost: steps done twice after one of them, at most. different, stray:
    files.
    """

    target: str
    number: int
    kills: int
    completed: bool
    lost: int
    different: str
    stray: str
    said: str  # by a run that did not complete

    @property
    def good(self) -> bool:
        return self.completed and self.lost <= INTERVAL and not self.different and not self.stray


class Place:
    """What the targets of one invocation share: a tiny pipeline, manifests, a folder for each target."""

    def __init__(self, home: Path):
        self.home = home.resolve()
        if not (self.home / "model").exists():
            from apo.world.build.pipeline import tiny_wan22  # takes seconds to import

            tiny_wan22(self.home / "half")
            (self.home / "half").rename(self.home / "model")
        if not (self.home / "data").exists():  # written once: caches remember when their files were written
            write_manifests(self.home / "half_data", 4)
            (self.home / "half_data").rename(self.home / "data")
        self.targets = targets(self.home / "model", {kind: self.home / f"data/{kind}.jsonl" for kind in KINDS})

    def tree(self, name: str) -> Path:
        tree = working_tree(self.home / name)
        if not (tree / VLM).exists():
            write_ranking_model(tree / VLM)
        return tree


class Killed:
    """One target: its uninterrupted run, and cycles of kills against it."""

    def __init__(self, name: str, place: Place, shell: Real):
        self.name, self.place, self.shell = name, place, shell
        self.target: Target = place.targets[name]
        self.before, self.tree = place.tree(f"{name}/before"), place.tree(f"{name}/tree")
        whole = place.home / name / "whole.json"
        if not whole.exists():
            write_json(whole, self.prepare())
        self.seconds, self.expected = json.loads(whole.read_text(encoding="utf-8"))

    def prepare(self) -> tuple[float, dict[str, str]]:
        """Makes what the target starts from; seconds of its run without interruption, and what that leaves."""
        for command in self.target.before:
            self.require(self.run(self.before, None, command), command)
        self.reset()
        done = self.run(self.tree, None)
        self.require(done, self.target.command)
        return done.wall_s, files(self.tree / "outputs")

    def reset(self) -> None:
        shutil.rmtree(self.tree / "outputs")
        shutil.copytree(self.before / "outputs", self.tree / "outputs")

    def require(self, done: Done, command: Sequence[str]) -> None:
        if done.code:
            raise SystemExit(
                f"kills: {self.name}: {' '.join(command)} does not end without a kill:\n{done.output[-2000:]}"
            )

    def run(self, tree: Path, limit_s: float | None, command: Sequence[str] = ()) -> Done:
        return self.shell.run(
            command or self.target.command, tree, limit_s or LIMIT_S, WANDB_MODE="disabled", HF_HUB_OFFLINE="1"
        )

    def cycle(self, number: int, seed: int) -> Cycle:
        """Kills it one to MOST times, and lets it end."""
        draw, tree = random.Random(f"{seed} {self.name} {number}"), self.tree
        self.reset()
        kills, lost, before = 0, 0, []
        for _ in range(draw.randint(1, MOST)):
            done = self.run(tree, draw.uniform(0, self.seconds))
            lost, before = max(lost, done_twice(before, now := rows(tree / "outputs"))), now
            if done.code >= 0:
                break  # it was faster than the first time
            kills += 1
        done = self.run(tree, None)
        lost = max(lost, done_twice(before, rows(tree / "outputs")))
        found = files(tree / "outputs")
        different = [name for name, digest in self.expected.items() if found.get(name) != digest]
        said = "" if done.code == 0 else (done.lines or [""])[-1][:300]
        stray = sorted(found.keys() - self.expected.keys())
        return Cycle(self.name, number, kills, done.code == 0, lost, " ".join(different), " ".join(stray), said)


class Record:
    """The cycles so far, in a table that a later invocation continues."""

    def __init__(self, path: Path):
        self.path, self.lock, self.began, self.cycles = path, threading.Lock(), time.monotonic(), []
        if path.exists():
            with path.open(newline="") as file:
                self.cycles = [typed(row) for row in csv.DictReader(file)]
        self.start = self.kills()

    def kills(self, target: str | None = None) -> int:
        return sum(cycle.kills for cycle in self.cycles if target in (None, cycle.target))

    def add(self, cycle: Cycle, count: int) -> None:
        with self.lock:
            self.cycles.append(cycle)
            fresh = not self.path.exists()
            with self.path.open("a", newline="") as file:
                table = csv.DictWriter(file, [field.name for field in fields(Cycle)])
                if fresh:
                    table.writeheader()
                table.writerow(asdict(cycle))
            done, seconds = self.kills() - self.start, time.monotonic() - self.began
            left = seconds / max(done, 1) * max(count - self.kills(), 0)
            verdict = "ok" if cycle.good else f"NOT OK: {cycle}"
            print(
                f"[{self.kills()}/{count} kills, {left / 60:.0f} min left] {cycle.target}: {cycle.kills} kills, "
                f"{verdict}",
                flush=True,
            )


def typed(row: dict[str, str]) -> Cycle:
    numbers = {name: int(row[name]) for name in ("number", "kills", "lost")}
    return Cycle(**row | numbers | {"completed": row["completed"] == "True"})


def kill_target(name: str, place: Place, record: Record, share: int, count: int, seed: int, real: bool) -> None:
    """Kills a target `share` times."""
    with Real() if real else Warm(ROOT) as shell:
        killed = Killed(name, place, shell)
        while record.kills(name) < share:
            number = sum(cycle.target == name for cycle in record.cycles)
            record.add(killed.cycle(number, seed), count)


def table(cycles: Sequence[Cycle]) -> str:
    lines = [
        "| target | kills | reruns completed | steps done twice, most | files different | stray files |",
        "|---|---|---|---|---|---|",
    ]
    for name in [*dict.fromkeys(cycle.target for cycle in cycles), None]:
        of = [cycle for cycle in cycles if name in (None, cycle.target)]
        counts = [sum(len(getattr(cycle, kind).split()) for cycle in of) for kind in ("different", "stray")]
        completed = f"{sum(cycle.completed for cycle in of)} of {len(of)}"
        cells = [
            name or "all",
            sum(cycle.kills for cycle in of),
            completed,
            max((cycle.lost for cycle in of), default=0),
            *counts,
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def run(names: Sequence[str], count: int, jobs: int, seed: int, real: bool, home: Path) -> list[Cycle]:
    """At least `count` kills, spread evenly over the targets."""
    home.mkdir(parents=True, exist_ok=True)
    place, record = Place(home), Record(home / "results.csv")
    names = names or list(place.targets)
    if unknown := set(names) - place.targets.keys():
        raise SystemExit(f"kills: --targets {','.join(unknown)}: there are {', '.join(place.targets)}")
    shares = {name: count * (i + 1) // len(names) - count * i // len(names) for i, name in enumerate(names)}
    with ThreadPoolExecutor(jobs) as pool:
        started = [
            pool.submit(kill_target, name, place, record, share, count, seed, real) for name, share in shares.items()
        ]
        try:
            for job in as_completed(started):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return record.cycles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="kills, together")
    parser.add_argument(
        "--targets", type=lambda text: text.split(","), default=[], help="names, with commas between; all otherwise"
    )
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--real", action="store_true", help="new interpreters instead of forks")
    parser.add_argument("--home", type=Path, default=HOME)
    args = parser.parse_args()
    cycles = run(args.targets, args.count, args.jobs, args.seed, args.real, args.home)
    print(table(cycles))
    if bad := sum(not cycle.good for cycle in cycles):
        sys.exit(
            f"kills: {bad} of {len(cycles)} reruns were not as if nothing had happened: see {args.home}/results.csv"
        )


if __name__ == "__main__":
    main()
