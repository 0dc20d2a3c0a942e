"""Being told to stop by a cluster: SIGUSR1 before a time limit, SIGTERM at preemption."""

import os
import signal
import threading

import lightning as L
from lightning.pytorch.callbacks import Callback

from apo.modules.callbacks import WholeCheckpoint

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
REQUEUE = 75  # exit status of a run that was told to stop: sysexits.h's EX_TEMPFAIL, for slurm.conf's RequeueExit and our sbatch script

STOPPED = "APO_STOPPED"  # names a file that a run which was told to stop leaves: torchrun does not pass on its processes' status


class StopWhenTold(Callback):
    """Finishes the optimizer step under way, saves and stops, on all ranks if any was told: the next start continues exactly.

    Its handlers only take note. They replace Lightning's, which save in the middle of a step (SIGUSR1 under SLURM) and enter
    a collective from the handler (SIGTERM). Before the first step the signals do what they always do: nothing is lost then.
    """

    def __init__(self, checkpoint: WholeCheckpoint):
        self.checkpoint, self.told, self.stopped = checkpoint, False, False

    def on_train_start(self, trainer: L.Trainer, module) -> None:  # after Lightning has set its handlers, which it restores at the end
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self.take_note)
            if "SUBMITIT_EXECUTOR" in os.environ:  # it requeues at a signal of its own, and lets this one pass
                signal.signal(signal.SIGTERM, lambda *_: None)

    def take_note(self, *_) -> None:
        self.told = True

    def on_train_batch_end(self, trainer: L.Trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.strategy.reduce_boolean_decision(self.told, all=False) and trainer.global_step < trainer.max_steps:
            self.checkpoint.save(trainer)
            self.stopped = trainer.should_stop = True
