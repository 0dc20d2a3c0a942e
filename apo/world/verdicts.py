"""The oracle's verdicts of the shipped model's videos, so that `data=world_pairs` need not decode and judge them again.

They ship with the model; `python -m apo.world.build.verdicts` makes the file anew. Videos of another model, guidance or
seed are not in it.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

FILE = Path(__file__).parent / "checkpoints" / "verdicts.json"  # name of a cache's folder -> its batches


def known(name: str, batch: int) -> Tensor | None:
    """(2, B) bool: which videos of a batch are distorted; None if that is not known.

    name: of the folder that the videos are kept in, which says what they were made by.
    """
    batches = json.loads(FILE.read_text()).get(name, [])
    return of_text(batches[batch]) if batch < len(batches) else None


def write(path: Path, name: str, batches: Iterable[Tensor]) -> None:
    path.write_text(json.dumps({name: [text(each) for each in batches]}, indent=1) + "\n")


def text(distorted: Tensor) -> str:
    """(2, B) bool as two words of zeros and ones."""
    return " ".join("".join(str(int(each)) for each in row) for row in distorted)


def of_text(words: str) -> Tensor:
    return torch.tensor([[digit == "1" for digit in word] for word in words.split()])
