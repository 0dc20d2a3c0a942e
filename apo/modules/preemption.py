"""Being told to stop: by a cluster (SIGUSR1 before a time limit, SIGTERM at preemption) or by a person (Ctrl-C, which
is SIGINT).
"""

import os
import signal
import sys
import threading

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from apo.errors import INTERRUPTED, say_interrupted
from apo.io import lock
from apo.modules.callbacks import WholeCheckpoint

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
# exit status of a run that a cluster told to stop: EX_TEMPFAIL, for slurm.conf's RequeueExit and our sbatch script
REQUEUE = 75

# names a file that a run which was told to stop leaves: torchrun does not pass on its processes' status
STOPPED = "APO_STOPPED"


class StopWhenTold(Callback):
    """Finishes the optimizer step under way, saves and stops, on all ranks if any was told: the next start continues
    exactly.

    Its handlers only take note. They replace Lightning's, which save in the middle of a step (SIGUSR1 under SLURM) and
    enter a collective from the handler (SIGTERM). Before the first step the signals do what they always do: nothing is
    lost then. A second Ctrl-C ends the process at once.
    """

    def __init__(self, checkpoint: WholeCheckpoint):
        self.checkpoint, self.told, self.stopped = checkpoint, None, False
        self.before = None  # SIGINT's handler

    def setup(self, trainer: L.Trainer, module, stage: str) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, end)  # Lightning would exit with 1 and say nothing

    def on_train_start(
        self, trainer: L.Trainer, module
    ) -> None:  # after Lightning has set its handlers, which it restores at the end
        if threading.current_thread() is threading.main_thread():
            for number in (*SIGNALS, signal.SIGINT):
                signal.signal(number, self.take_note)
            if "SUBMITIT_EXECUTOR" in os.environ:  # it requeues at a signal of its own, and lets this one pass
                signal.signal(signal.SIGTERM, lambda *_: None)

    def take_note(self, number: int, _) -> None:
        self.told = number
        lock.stopping()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if rank_zero_only.rank == 0:
                print(
                    "\ninterrupted: the step under way ends and is saved; interrupt again to end at once",
                    file=sys.stderr,
                    flush=True,
                )

    def on_train_batch_end(self, trainer: L.Trainer, module, outputs, batch, batch_idx) -> None:
        if (
            trainer.strategy.reduce_boolean_decision(self.told is not None, all=False)
            and trainer.global_step < trainer.max_steps
        ):
            self.checkpoint.save(trainer)
            self.stopped = trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, module, stage: str) -> None:
        self.restore()

    def on_exception(self, trainer: L.Trainer, module, exception: BaseException) -> None:
        self.restore()

    def restore(self) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    @property
    def status(self) -> int:
        """The exit status of the run that was stopped."""
        return INTERRUPTED if self.told == signal.SIGINT else REQUEUE


def end(*_) -> None:
    """Ctrl-C where there is nothing to save yet."""
    if rank_zero_only.rank == 0:
        say_interrupted()
    raise SystemExit(INTERRUPTED)
