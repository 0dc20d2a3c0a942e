"""Encoded files of a cache as a data set, and what every kind of them has: the condition."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as nnf
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset

from apo.interfaces import Condition
from apo.io.checksums import named_by_content


class CachedDataset(Dataset):
    """Files of `apo.data.cache.LatentCache`, read from disk one by one. A subclass says how items become a batch.

    verify: is given a file before it is read, and makes sure of it; see `apo.data.cache.Verified`. None: they are known
    to be sound.
    """

    def __init__(self, files: list[Path], max_sequence_length: int, verify: Callable[[Path], None] | None = None):
        self.files, self.verify = files, verify
        self.max_sequence_length = max_sequence_length

    @property
    def identity(self) -> str:
        """What the lineage of an adapter says of the data."""
        return named_by_content(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        """The tensors of a cache file, `prompt`, and `domain` ('' if the manifest has none)."""
        if self.verify is not None:
            self.verify(self.files[index])
        with safe_open(self.files[index], "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()} | file.metadata()

    def condition(self, items: list[dict]) -> Condition:
        """The condition of some items; text is zero beyond each prompt's tokens, up to max_sequence_length."""
        text = [nnf.pad(item["text"], (0, 0, 0, self.max_sequence_length - len(item["text"]))) for item in items]
        domains = [item["domain"] for item in items]
        rest = {name: stacked(items, name) for name in ("image", "image_embeds", "frame") if name in items[0]}
        return Condition(
            [item["prompt"] for item in items], torch.stack(text), **rest, domain=domains if any(domains) else None
        )


class ConditionDataset(CachedDataset):
    """Encoded conditions without videos."""

    def collate(self, items: list[dict]) -> Condition:
        return self.condition(items)


def stacked(items: list[dict], name: str) -> Tensor:
    return torch.stack([item[name] for item in items])
