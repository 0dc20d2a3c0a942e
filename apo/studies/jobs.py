"""Commands that need one another, run to their ends, several at a time; what has been done is not done again."""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from apo.errors import UserError
from apo.places import program
from apo.terminal import INTERVAL

POLL = 0.1  # seconds between two looks at the commands that run


@dataclass(eq=False)
class Job:
    """A command of the repository, the words after `python`.

    kind: of work, such as training: jobs of a kind take about as long. needs: jobs that must be done before. done:
    whether it need not run; it is asked once all that it needs is done, and raises UserError for what would be refused.
    share: of the work, in [0, 1], that a running one has done; None where it does not show.
    """

    name: str
    kind: str
    command: Sequence[str]
    log: Path
    needs: Sequence["Job"] = ()
    done: Callable[[], bool] = lambda: False
    share: Callable[[], float | None] = lambda: None

    def shown(self) -> str:
        return shlex.join(["python", *self.command])

    def start(self) -> subprocess.Popen:
        """In a session of its own: Ctrl-C in the terminal reaches it once, through this process."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        first, *words = self.command
        command = [sys.executable, *(program(first.removesuffix(".py")) if first.endswith(".py") else [first]), *words]
        with self.log.open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][-500:] if lines else "it printed nothing"


@dataclass
class Running:
    process: subprocess.Popen
    began: float = field(default_factory=time.monotonic)

    @property
    def gone(self) -> float:
        return time.monotonic() - self.began


class Runner:
    """Runs jobs, `parallel` at a time. A job that fails is named at once; those that need it are left out, the others
    go on.

    dry: runs nothing; what would have to be run is in `missing`, in an order in which each job has what it needs.
    """

    def __init__(self, parallel: int, dry: bool = False):
        self.parallel, self.dry = parallel, dry
        self.missing: list[Job] = []
        self.done: set[Job] = set()
        self.to_do: set[Job] = set()  # that were asked and are not done
        self.failed: dict[Job, str] = {}
        self.running: dict[Job, Running] = {}
        self.took: dict[str, list[float]] = {}  # kind -> seconds
        self.spoke = time.monotonic()
        self.total = 0

    def run(self, jobs: Sequence[Job]) -> None:
        """To their ends. Interrupted, it lets the running ones save and end before it raises KeyboardInterrupt."""
        waiting = [job for job in jobs if not self.is_over(job)]
        self.total += len(waiting)
        try:
            while waiting or self.running:
                waiting = [job for job in waiting if not self.settled(job)]
                for job in [job for job, running in self.running.items() if running.process.poll() is not None]:
                    self.end(job)
                self.speak(waiting)
                if self.running:
                    time.sleep(POLL)
        except BaseException:
            self.stop()
            raise

    def is_over(self, job: Job) -> bool:
        return job in self.done or job in self.failed or job in self.missing

    def settled(self, job: Job) -> bool:
        """Whether a waiting job waits no more: it is done, can't be done, or has been started."""
        if broken := [each for each in job.needs if each in self.failed]:
            self.fail(job, f"it needs {broken[0].name}")
        if any(each in self.missing for each in job.needs):
            self.missing.append(job)
        if self.is_over(job) or not all(each in self.done for each in job.needs):
            return self.is_over(job)
        if job not in self.to_do:
            self.ask(job)
        if job in self.to_do and self.dry:
            self.missing.append(job)
        elif job in self.to_do and len(self.running) < self.parallel:
            self.running[job] = Running(job.start())
        return self.is_over(job) or job in self.running

    def ask(self, job: Job) -> None:
        """Whether it is done already."""
        try:
            (self.done if job.done() else self.to_do).add(job)
        except UserError as error:
            self.fail(job, str(error))

    def end(self, job: Job) -> None:
        running = self.running.pop(job)
        if running.process.returncode:
            self.fail(job, f"{job.last_words()} (all that it printed: {job.log})")
            return
        self.done.add(job)
        self.took.setdefault(job.kind, []).append(running.gone)
        self.say(f"{job.name}, {tqdm.format_interval(running.gone)}")

    def fail(self, job: Job, reason: str) -> None:
        self.failed[job] = reason
        self.say(f"{job.name} FAILED: {reason}")

    def say(self, text: str) -> None:
        count = len(self.done) + len(self.failed)
        stream = sys.stderr if self.dry else sys.stdout  # where nothing is run, what is printed are commands
        print(f"{CLEAR if stream.isatty() else ''}[{count}/{self.total}] {text}", file=stream, flush=True)

    def speak(self, waiting: Sequence[Job]) -> None:
        """What runs and how long all of it will take: in place on a terminal, elsewhere a line now and then."""
        terminal = sys.stdout.isatty()
        if not self.running or time.monotonic() - self.spoke < (1 if terminal else INTERVAL):
            return
        self.spoke = time.monotonic()
        now = ", ".join(working_on(job) for job in self.running)
        left = self.left(waiting)
        text = f"{now}; {'no estimate yet' if left is None else f'about {tqdm.format_interval(left)} left'}"
        if terminal:
            count = len(self.done) + len(self.failed)
            print(f"{CLEAR}[{count}/{self.total}] {text}", end="", flush=True)
        else:
            self.say(text)

    def left(self, waiting: Sequence[Job]) -> float | None:
        """Seconds, from what jobs of the kinds took, or of other kinds; None while nothing is known of any."""
        usual = {kind: sum(seconds) / len(seconds) for kind, seconds in self.took.items()}
        for job, running in self.running.items():
            if job.kind not in usual and (share := job.share()):
                usual[job.kind] = running.gone / share
        if not usual:
            return None
        guess = sum(usual.values()) / len(usual)
        rest = sum(max(usual.get(job.kind, guess) - running.gone, 0) for job, running in self.running.items())
        return (rest + sum(usual.get(job.kind, guess) for job in waiting)) / self.parallel

    def stop(self) -> None:
        """Asks what runs to save and end, and waits for it; a second Ctrl-C ends it at once."""
        try:
            for running in self.running.values():
                running.process.send_signal(signal.SIGINT)
            for running in self.running.values():
                running.process.wait()
        finally:
            for running in self.running.values():
                running.process.kill()


def working_on(job: Job) -> str:
    share = job.share()
    return job.name if share is None else f"{job.name} {share:.0%}"


CLEAR = "\r\x1b[K"  # takes away the line that the cursor is in
