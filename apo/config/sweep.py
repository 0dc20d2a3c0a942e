"""Ctrl-C in a sweep whose jobs run side by side (hydra/launcher=joblib): all save and end, and none begins after that.

Otherwise the first job to end would take the others with it, in the middle of their steps.
"""

import os
import shlex
import signal
import sys
from collections.abc import Callable

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from apo.errors import COMMAND, INTERRUPTED, say_interrupted

told = False  # this process, by Ctrl-C


def take_note(*_) -> None:
    global told
    told = True


def is_parallel(hydra: DictConfig) -> bool:
    return hydra.mode == RunMode.MULTIRUN and hydra.launcher._target_.endswith("JoblibLauncher")


def run(job: Callable[[], None]) -> None:
    """A job in a process that others follow in: once interrupted, it and all others return at once,
    without an error.
    """
    if told:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        job()
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        take_note()
    finally:
        signal.signal(signal.SIGINT, take_note)


class EndTogether(Callback):
    """Hydra asks it in the process that starts the jobs: it waits for them at the first Ctrl-C, and
    ends at the second.
    """

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        os.environ[COMMAND] = shlex.join(sys.orig_argv)
        if is_parallel(config.hydra):
            signal.signal(signal.SIGINT, self.take_note)

    def take_note(self, *_) -> None:
        take_note()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        if told:
            say_interrupted()
            raise SystemExit(INTERRUPTED)
