"""Hundreds of malformed inputs through the real commands: `python -m apo.tools.malformed`.

Each case spoils one thing in a working tree of its own and runs a command there. It passes if the command ends with one
line that names the field, file or line and a remedy, an exit status that is not 0 (or, where the damage can be mended,
with 0 and a line that says so), no traceback, under 3 s of CPU where no model had to be loaded, no planted code run,
and no file of the user changed.

    python -m apo.tools.malformed --jobs 2        # what was wrong; all cases in outputs/tools/malformed/results.csv
    python -m apo.tools.malformed --only 'label' --show      # what the commands said

Commands are forked from a process that has imported the libraries, so their CPU is without imports; `--real` starts
interpreters.
"""

import argparse
import csv
import hashlib
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from apo.tools import malformed_config, malformed_manifests, malformed_rankers, malformed_state
from apo.tools.cases import EITHER, MENDED, OFFLINE, REFUSED, Case
from apo.tools.inputs import ROOT, working_tree, write_manifests, write_ranking_model, written
from apo.tools.warm import Done, Real, Warm

RESULTS = Path("outputs/tools/malformed")
LIMIT_S, CPU_S = 90, 3
REMEDY = re.compile(
    r"\b(give|use|set|add|delete|make|lower|raise|drop|copy|write|train|run|start|check|install|choose|take|leave|put|remove|rename|"
    r"need|move|needs|must|name|wait|continue|continues|save|label|encode|did you mean|closest|known|there are|"
    r"required|one of|choices?|free|mend|quote|mended|rebuilt|anew|falls? back|previous)\b",
    re.I,
)
ROW = re.compile(r"\s+(line|row) \d+: ")
NOISE = re.compile(
    r"^\s*(steps|encoding|generating|evaluating|Loading|[\w ]+:\s+\d+%|\[rank|usage:|outputs and caches:)|^ "
    r"{16,}|it/s\]|s/it\]"
)


@dataclass(frozen=True)
class Verdict:
    """What was wrong with how a case ended: '' if nothing."""

    name: str
    wrong: str
    code: int
    cpu_s: float
    said: str


def judge(case: Case, done: Done, touched: Sequence[str], ran: bool) -> Verdict:
    """What is not as it must be."""
    everything = [
        line for line in done.output.replace("\r", "\n").splitlines() if line.strip() and not NOISE.search(line)
    ]
    lines = [line for line in everything if not ROW.match(line)]  # a manifest's bad rows follow, a line each
    text = "\n".join(everything)
    said = "\n".join(everything[-2:])
    wrong = [
        ("hangs", done.wall_s > LIMIT_S),
        ("traceback", "Traceback (most recent" in done.output),
        ("killed by a signal", done.code < 0),
        ("accepted", done.code == 0 and case.ends == REFUSED),
        ("refused", done.code != 0 and case.ends == MENDED),
        ("more than one line", done.code != 0 and len(lines) > 1),
        ("nothing said", not lines),
        ("does not name it", not all(re.search(pattern, text) for pattern in case.says)),
        ("no remedy", done.code != 0 and not REMEDY.search(text)),
        ("planted code was run", ran),
        ("files touched", bool(touched)),
        ("slow", done.cpu_s > CPU_S and not case.loads and done.code != 0),
    ]
    silent = done.code == 0 and case.ends == EITHER
    found = [name for name, true in wrong if true and not (silent and name in ("does not name it", "nothing said"))]
    return Verdict(case.name, ", ".join(found), done.code, round(done.cpu_s, 2), said[:400])


class Place:
    """What the cases share: a tiny pipeline, manifests, a finished run and one that has begun; and a fresh tree for
    each.
    """

    def __init__(self, home: Path, shell: Real):
        self.home, self.number = home.resolve(), count()
        from apo.world.build.pipeline import tiny_wan22  # takes seconds to import

        tiny_wan22(self.home / "model")
        write_ranking_model(self.home / "vlm")
        write_manifests(self.home / "data", 2)
        written(
            self.home / "data/other.jsonl",
            [{"prompt": f"a man waves {i}", "image": f"first_{i}.png"} for i in range(2)],
        )
        self.first = self.tree()
        for folder in ("made/run", "begun/offline"):
            done = shell.run((*OFFLINE, f"run={folder.split('/')[0]}", f"hydra.run.dir=outputs/{folder}"), self.first)
            if done.code:
                raise SystemExit(f"malformed: the run that is to be spoiled does not end:\n{done.output[-2000:]}")
        shutil.rmtree(self.first / "outputs/begun/offline/adapter")

    def tree(self) -> Path:
        tree = working_tree(self.home / f"tree_{next(self.number)}")
        (tree / "vlm").symlink_to(self.home / "vlm")
        (tree / "model").symlink_to(self.home / "model")
        shutil.copytree(self.home / "data", tree / "data")
        (tree / "guard").mkdir()
        (tree / "guard/notes.txt").write_text("mine")
        if tree.name != "tree_0":
            shutil.copytree(self.first / "outputs", tree / "outputs", dirs_exist_ok=True)
            (tree / "outputs/made/run/eval_prompts/videos").mkdir(parents=True)
            shutil.copy(tree / "data/good_0.mp4", tree / "outputs/made/run/eval_prompts/videos/mine.mp4")
        return tree


def mine(tree: Path) -> dict[str, str]:
    """Digests of the user's files: data, notes, a video among results, the adapter that is read."""
    places = ("data", "guard", "model", "outputs/made/run/adapter", "outputs/made/run/eval_prompts/videos/mine.mp4")
    paths = [
        path for place in places for path in ((tree / place).rglob("*") if (tree / place).is_dir() else [tree / place])
    ]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def tried(case: Case, place: Place, shell: Real) -> Verdict:
    """Runs a case in a tree of its own."""
    tree = place.tree()
    ends = case.spoil(tree)
    try:
        before = mine(tree)
        done = shell.run(case.command, tree, LIMIT_S, WANDB_MODE="disabled", HF_HUB_OFFLINE="1")
        after = mine(tree)
        return judge(
            case, done, [path for path in before if after.get(path) != before[path]], bool(list(tree.rglob("pwned")))
        )
    finally:
        if ends:
            ends()
        shutil.rmtree(tree, ignore_errors=True)


def run(
    cases: Sequence[Case],
    jobs: int,
    real: bool,
    home: Path,
    show: bool = False,
    add: Callable[[Verdict], object] = lambda verdict: None,
) -> list[Verdict]:
    """The verdicts in the order of the cases. add: is given each as it comes."""
    shells: SimpleQueue[Real] = SimpleQueue()
    for _ in range(jobs):
        shells.put(Real() if real else Warm(ROOT))
    place, total, done = Place(home, shell := shells.get()), len(cases), count(1)
    shells.put(shell)

    def one(case: Case) -> Verdict:
        shell = shells.get()
        try:
            verdict = tried(case, place, shell)
        finally:
            shells.put(shell)
        add(verdict)
        number = next(done)
        if verdict.wrong or show:
            print(f"[{number}/{total}] {case.name}: {verdict.wrong or 'ok'}: {verdict.said[:300]}", flush=True)
        elif number % 50 == 0:
            print(f"[{number}/{total}]", flush=True)
        return verdict

    try:
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(one, cases))
    finally:
        while not shells.empty():
            shells.get().__exit__()


def all_cases(port: int) -> list[Case]:
    """port: of `malformed_rankers.serve`."""
    return [
        *malformed_manifests.cases(),
        *malformed_config.cases(),
        *malformed_state.cases(),
        *malformed_rankers.cases(port),
    ]


@contextmanager
def results(folder: Path) -> Iterator[Callable[[Verdict], object]]:
    """What writes a verdict into results.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.csv").open("w", buffering=1, newline="", encoding="utf-8", errors="replace") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Verdict)])
        table.writeheader()
        yield lambda verdict: table.writerow(asdict(verdict))


def summary(verdicts: Sequence[Verdict]) -> str:
    """A line for each thing that was wrong, with how often."""
    wrong = Counter(name for verdict in verdicts for name in filter(None, verdict.wrong.split(", ")))
    good = sum(not verdict.wrong for verdict in verdicts)
    lines = [f"  {number:4} {name}" for name, number in wrong.most_common()]
    return "\n".join([f"{good} of {len(verdicts)} cases end as they must", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression: cases whose names match")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--real", action="store_true", help="new interpreters instead of forks")
    parser.add_argument("--show", action="store_true", help="what was said in the cases that pass, too")
    args = parser.parse_args()
    server = malformed_rankers.serve()
    cases = [case for case in all_cases(server.server_port) if re.search(args.only, case.name)]
    with TemporaryDirectory() as home, results(RESULTS) as add:
        verdicts = run(cases, args.jobs, args.real, Path(home), args.show, add)
    print(summary(verdicts))
    if any(verdict.wrong for verdict in verdicts):
        sys.exit(
            f"malformed: {sum(bool(verdict.wrong) for verdict in verdicts)} of {len(verdicts)} cases: see "
            f"{RESULTS}/results.csv"
        )


if __name__ == "__main__":
    main()
