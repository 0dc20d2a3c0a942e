"""Ctrl-C at a terminal, and what a person reads there before and after it."""

import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from apo.errors import INTERRUPTED, end_at_interrupt
from tests.adapters import finished
from tests.clips import write_manifest
from tests.commands import ROOT, adapter, execute, metrics, short, train, wait_for_steps
from tests.policies.test_wan import LORA, make

CTRL_C = b"\x03"
STEPS = 60  # enough that none ends before the key is pressed


class Terminal:
    """A command in a pseudo-terminal of its own."""

    def __init__(self, command: list[str]):
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
        os.close(theirs)
        self.said = ""

    def read_until(self, text: str | None, limit_s: float = 240) -> None:
        """What the command says, up to some text, or to its end."""
        deadline = time.time() + limit_s
        while text is None or text not in self.said:
            assert time.time() < deadline, self.said[-3000:]
            if select.select([self.ours], [], [], 0.1)[0]:
                try:
                    self.said += os.read(self.ours, 4096).decode(errors="replace")
                except OSError:  # the command has ended
                    return

    def press(self, key: bytes) -> None:
        os.write(self.ours, key)

    def ended(self) -> int:
        self.read_until(None)
        os.close(self.ours)
        return self.process.wait(timeout=60)


def test_an_interrupt_among_the_imports_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        end_at_interrupt(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert ended.value.code == INTERRUPTED and capsys.readouterr().err.startswith(
        "\ninterrupted; the same command continues:"
    )


@pytest.fixture(scope="module")
def command(tmp_path_factory, wan22_folder):
    """run, *overrides -> the command line of a short offline run."""
    home = tmp_path_factory.mktemp("interrupts")
    manifest = write_manifest(home / "data", 4)

    def build(run: str, *overrides: str) -> list[str]:
        return train(
            *short(home, wan22_folder, manifest, run), f"max_steps={STEPS}", "checkpoint_every_n_steps=100", *overrides
        )

    build.home = home
    return build


def test_ctrl_c_saves_the_step_and_the_same_command_goes_on(command):
    folder = command.home / "interrupted"
    at = Terminal(command("interrupted"))
    wait_for_steps(at.process, folder, 2)
    at.press(CTRL_C)
    assert at.ended() == INTERRUPTED
    assert "Traceback" not in at.said and "interrupt again to end at once" in at.said
    saved = len(metrics(folder))
    assert (
        f"step {saved} of {STEPS} is saved in {folder}/checkpoints; to continue: {sys.executable} train.py "
        "run=interrupted" in at.said
    )
    resumed = execute(command("interrupted")).stdout
    execute(command("whole"))
    assert metrics(folder) == metrics(command.home / "whole") and adapter(folder) == adapter(command.home / "whole")
    assert (
        f"continuing at step {saved} of {STEPS}" in resumed
        and "\r" not in resumed
        and f"steps: {STEPS} of {STEPS}, loss" in resumed
    )
    assert f"adapter:  {folder}/adapter" in resumed and "evaluate.py run=interrupted" in resumed
    log = (folder / "train.log").read_text()
    assert "told to stop: step" in log and resumed.strip() in log and "\r" not in log


def test_a_second_ctrl_c_ends_at_once_and_one_before_the_first_step_shows_no_traceback(command):
    at = Terminal(command("early", f"data.cache_dir={command.home}/early_cache"))
    while not (command.home / "early" / "config.yaml").exists():  # written before the model is loaded
        assert at.process.poll() is None
        time.sleep(0.01)
    at.press(CTRL_C)
    assert at.ended() == INTERRUPTED and "Traceback" not in at.said
    assert (
        "interrupted; the same command continues:" in at.said and not (command.home / "early" / "checkpoints").exists()
    )
    process = subprocess.Popen(
        command("twice", "max_steps=1000"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for_steps(process, command.home / "twice", 1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode in (-signal.SIGINT, INTERRUPTED) and "Traceback" not in error


def interrupted(command: list[str], begun: Callable[[subprocess.Popen], object], folder: Path = ROOT) -> None:
    """Starts a command, interrupts it once `begun(process)` returned, and looks at how it ends."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    begun(process)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == INTERRUPTED and "Traceback" not in error, error
    assert f"interrupted; the same command continues: {shlex.join(command)}" in error


def test_ctrl_c_ends_the_building_of_a_cache_with_one_line(command):
    overrides = [word for word in command("unused")[2:] if not word.startswith("hydra.")]
    build = [sys.executable, "-m", "apo.data.cache", *overrides, f"data.cache_dir={command.home}/interrupted_cache"]
    interrupted(build, lambda process: process.stdout.readline())  # that a worker was started


def test_ctrl_c_ends_an_evaluation_with_one_line(tmp_path):
    def generated(process: subprocess.Popen) -> None:
        while not list(tmp_path.rglob("latents-*/*.safetensors")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)

    evaluate = [sys.executable, str(ROOT / "evaluate.py"), "run=r", "stage=null", "against=null"]
    settings = [f"model.path={ROOT}/apo/world/checkpoints/wan22", "batch_size=2", "trainer.threads=1"]
    interrupted([*evaluate, *settings, "logger=csv"], generated, tmp_path)


def test_ctrl_c_ends_an_export_with_one_line_and_leaves_nothing(request, tmp_path):
    folder = finished(tmp_path / "run", make(request, "wan22", LORA), LORA, "run=trial")
    slow = "lambda *_: (print('writing', flush=True), time.sleep(60))"
    code = f"import time, apo.export as export; export.write_tensors = {slow}; "
    begun = [sys.executable, "-c", f"{code}export.main()", str(folder), "--out", str(tmp_path / "out")]
    interrupted(begun, lambda process: process.stdout.readline())
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
