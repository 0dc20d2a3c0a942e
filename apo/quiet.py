"""Imported first by the commands: libraries speak only of what the user can act on, and leave idle cores to other
programs.

Imports none of them: they take seconds, and a command that refuses its settings needs none.
"""

import logging
import os
import sys
import warnings

from apo.errors import end_at_interrupt

sys.excepthook = end_at_interrupt

# OpenMP's threads wait for work in a loop; where others want the cores, its default length made a step 4 to 150 times
# slower
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("WANDB_SILENT", "true")
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)
for said in (
    "Already found a `peft_config`",  # two adapters are the point
    ".*inconsistency was discovered",  # diffusers adds zero layers to image-to-video LoRA
    "The '.*dataloader' does not have many workers",
    "Checkpoint directory",
    "Found .* module.s. in eval mode",  # the frozen codec
    ".*Trying to infer the `batch_size`.*",
    # data depends on the step alone: `apo.run.StepSampler`
    "You're resuming from a checkpoint that ended before the epoch ended",
    "FSDP2-wrapped module",  # velocities are views: nothing writes into them
):
    warnings.filterwarnings("ignore", message=said)


def silence() -> None:
    """Before models are loaded: no progress bars of pieces, no word of Lightning below a warning, which sets its level
    when imported.
    """
    import diffusers.utils.logging
    import lightning  # noqa: F401
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
