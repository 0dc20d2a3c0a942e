"""A malformed input as a line of a table: what is spoiled, the command that meets it, what its one line must name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REFUSED, MENDED, EITHER = "refused", "mended", "either"

# of every training here: the model and the size are the tree's own
TRAIN = (
    "train.py",
    "run=case",
    "model.path=model",
    "model.spec={height: 32, width: 48, frames: 9, fps: 8}",
    "model.num_inference_steps=4",
    "policy.lora.rank=2",
    "max_steps=2",
    "checkpoint_every_n_steps=1",
    "sample_every_n_steps=0",
    "validate_every_n_steps=2",
    "batch_size=2",
    "logger=csv",
    "trainer.threads=1",
)
OFFLINE = (
    *TRAIN,
    "stage=offline",
    "data=pairs",
    "data.path=data/pairs.jsonl",
)  # what the tree's finished run was trained with


def nothing(tree: Path) -> None:
    pass


def writes(path: str, content: bytes) -> Callable[[Path], None]:
    """Spoils a file of the tree."""

    def spoil(tree: Path) -> None:
        (tree / path).unlink(missing_ok=True)  # it may be a link
        (tree / path).write_bytes(content)

    return spoil


@dataclass(frozen=True)
class Case:
    """command: of `Warm.run`. says: regular expressions that its one line must match. spoil: what is done to the tree
    before.

    ends: refused (exit status not 0), mended (0, and the line says what was done), either. loads: a model may be loaded
    before.
    """

    name: str
    command: tuple[str, ...]
    says: tuple[str, ...]
    spoil: Callable[[Path], Callable[[], object] | None] = nothing  # may return what ends it
    ends: str = REFUSED
    loads: bool = False
