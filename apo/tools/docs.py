"""Runs every command of README and docs to its end, in a fresh clone and at a small size: `python -m apo.tools.docs`.

The clone's defaults are cut as `apo/tools/docs.yaml` says, so that the commands run as they are written; placeholders
get what the clone has. That file also lists what can't be run here, with the reason. Results and what failing commands
printed: outputs/tools/docs.
"""

import argparse
import csv
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import yaml

from apo.tools.commands import Shown, shown
from apo.tools.inputs import ROOT, write_manifests, write_ranking_model, written
from apo.tools.warm import Done, Warm, executed

RESULTS = Path("outputs/tools/docs")
LIMIT_S = 900
OPTIONS = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}


@cache
def settings() -> dict:
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def listed(command: Shown) -> str | None:
    """Why a command is not run; None if it is."""
    return next((why for begins, why in settings()["not_run"].items() if command.text.startswith(begins)), None)


def snippet(code: str) -> dict | None:
    """What docs.yaml says of a block of Python."""
    return next((how for begins, how in settings()["snippets"].items() if code.startswith(begins)), None)


def problems(commands: Sequence[Shown]) -> list[str]:
    """What makes docs.yaml untrue: entries of which no document speaks, and snippets that it does not know."""
    texts = [command.text for command in commands]
    stale = [begins for begins in settings()["not_run"] if not any(text.startswith(begins) for text in texts)]
    stale += [begins for begins in settings()["snippets"] if not any(text.startswith(begins) for text in texts)]
    unknown = [c.place for c in commands if c.python and listed(c) is None and snippet(c.text) is None]
    return [f"docs.yaml lists what no document shows: {line}" for line in stale] + [
        f"{place}: docs.yaml does not say how to run this block of Python" for place in unknown
    ]


def clone(folder: Path, source: Path = ROOT) -> Path:
    """A fresh clone with the environment of this one, defaults cut, and what placeholders stand for."""
    subprocess.run(["git", "clone", "--quiet", source, folder], check=True)
    (folder / ".venv").symlink_to((source / ".venv").resolve())
    cut(folder)
    write_ranking_model(folder / "qwen3_vl")
    manifests = write_manifests(folder, 4)
    shutil.copy(manifests["prompts"], folder / "held_out.jsonl")
    written(folder / "videos.jsonl", [{"prompt": f"digit {i}", "video": f"good_{i}.mp4"} for i in range(2)])
    return folder


def cut(folder: Path) -> None:
    """Makes the defaults of a clone small; ValueError if a file no longer has what is to be cut."""
    for pattern, changes in settings()["cut"].items():
        for old, new in changes.items():
            count = 0
            for path in folder.glob(pattern):
                text, found = re.subn(old, new, path.read_text(encoding="utf-8"), flags=re.M)
                path.write_text(text, encoding="utf-8")
                count += found
            if not count:
                raise ValueError(f"docs.yaml: cut: no file {pattern} has {old!r} any more")


@dataclass
class Clone:
    """In which commands run one after another. done: by words, since documents write some commands in two ways."""

    root: Path
    warm: Warm
    port: int = field(default_factory=lambda: free_port())
    done: dict[tuple[str, ...], Done] = field(default_factory=dict)
    servers: list[subprocess.Popen] = field(default_factory=list)

    @property
    def cpu_s(self) -> float:
        """Seconds of all that was run so far."""
        return sum(done.cpu_s for done in self.done.values())

    def run(self, command: Shown) -> Done:
        """A command, after those that it needs."""
        return self.python(command) if command.python else self.command(command.text)

    def command(self, text: str) -> Done:
        words = self.small(text)
        if words not in self.done:
            for pattern, needed in settings()["needs"].items():
                if re.search(pattern, text) and needed != text:
                    self.command(needed)
            url = next((url for pattern, url in settings()["servers"].items() if re.search(pattern, text)), None)
            self.done[words] = self.execute(words) if url is None else self.serve(words, url.format(port=self.port))
        return self.done[words]

    def small(self, text: str) -> tuple[str, ...]:
        """The words of a command, with what placeholders stand for."""
        more = [words for pattern, words in settings()["appended"].items() if re.search(pattern, text)]
        for old, new in settings()["replaced"].items():
            text = text.replace(old, new)
        return tuple(shlex.split(" ".join([text, *more]).replace("{port}", str(self.port))))

    def execute(self, words: Sequence[str]) -> Done:
        if words[0] == "make":
            return self.program(["make", "-o", ".venv/installed", f"BIN={self.warm.folder}", *words[1:]])
        return self.program([self.warm.python, *words[1:]])

    def program(self, words: list[str]) -> Done:
        done = executed(words, self.root, LIMIT_S, OPTIONS)
        return replace(done, cpu_s=done.cpu_s + self.warm.settled())

    def serve(self, words: Sequence[str], url: str) -> Done:
        """Starts a server and waits until it answers."""
        began, log = time.monotonic(), (self.root / "server.log").open("w+b")
        self.servers.append(subprocess.Popen([sys.executable, *words[1:]], cwd=self.root, stdout=log, stderr=log))
        while time.monotonic() < began + 120 and self.servers[-1].poll() is None:
            try:
                with urlopen(url, timeout=1):
                    return Done(0, "", 0, time.monotonic() - began)
            except OSError:
                time.sleep(0.2)
        log.seek(0)
        return Done(1, log.read().decode(), 0, time.monotonic() - began)

    def python(self, command: Shown) -> Done:
        """A snippet: the file that it is, or a script."""
        code, how = command.text, snippet(command.text)
        if "file" not in how:
            self.command(how["needs"])
            (self.root / "snippet.py").write_text(f"{how['before']}\n{code}", encoding="utf-8")
            return self.program([self.warm.python, "snippet.py"])
        (self.root / how["file"]).write_text(code, encoding="utf-8")
        beside = re.search(
            rf"`{re.escape(how['beside'])}`: `(\{{[^`]*\}})`", (self.root / command.file).read_text(encoding="utf-8")
        )
        (self.root / how["beside"]).write_text(beside[1], encoding="utf-8")
        return Done(0, "", 0, 0)

    def close(self) -> None:
        for server in self.servers:
            server.kill()
            server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_all(commands: Sequence[Shown], folder: Path, report) -> list[bool]:
    with Warm(clone(folder)) as warm:
        there = Clone(folder, warm)
        try:
            return [report(command, there.run(command), there.cpu_s) for command in commands]
        finally:
            there.close()


class Report:
    """Prints and keeps how each command ended."""

    def __init__(self, count: int, folder: Path):
        self.count, self.folder, self.cpu_s, self.rows = count, folder, 0.0, []
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def __call__(self, command: Shown, done: Done, cpu_s: float) -> bool:
        said = "ok" if done.code == 0 else f"FAILED ({done.code}): {(done.lines or ['nothing was printed'])[-1][:200]}"
        self.cpu_s = cpu_s
        self.rows.append([command.place, command.text.splitlines()[0], done.code, f"{done.cpu_s:.1f}"])
        took = f"{done.cpu_s:6.1f} s  {command.place:24}"
        print(f"[{len(self.rows)}/{self.count}, {cpu_s:.0f} s] {took} {self.rows[-1][1][:90]}  {said}", flush=True)
        if done.code:
            (self.folder / f"{command.place.replace('/', '_').replace(':', '_')}.log").write_text(
                f"{command.text}\n{done.output}"
            )
        return done.code == 0

    def write(self) -> None:
        with (self.folder / "results.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["place", "command", "code", "cpu_s"], *sorted(self.rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression: commands or places that match")
    parser.add_argument("--keep", type=Path, help="folder for the clone, which then stays")
    args = parser.parse_args()
    everything = shown(ROOT)
    wanted = [
        command
        for command in everything
        if listed(command) is None and re.search(args.only, f"{command.place} {command.text}")
    ]
    report = Report(len(wanted), RESULTS)
    with TemporaryDirectory() as temporary:
        good = run_all(wanted, args.keep or Path(temporary) / "clone", report)
    report.write()
    for command in everything:
        if (why := listed(command)) is not None:
            print(f"not run: {command.place} {command.text.splitlines()[0][:100]}: {why}")
    print(f"{sum(good)} of {len(wanted)} commands ran to their end in {report.cpu_s:.0f} s of CPU; {RESULTS}")
    if wrong := problems(everything) + (["a command failed"] if not all(good) else []):
        sys.exit("docs: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
