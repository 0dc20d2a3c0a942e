"""What every part of a config is: a class that knows, before anything is loaded, whether it fits the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from apo.interfaces import DataRow
    from apo.io.video import Spec
    from apo.policies.architecture import Architecture
    from apo.policies.model import WanModel


@dataclass(frozen=True)
class Setting:
    """What a part may ask about the others.

    spec: size and rate of all videos. rows: of the user's data; empty where prompts are made, not read. architecture:
    of the video model; None while it is on the hub only. context_parallel: processes that share a video's tokens.
    sharded: whether processes share the weights. gives: the kind of data that `data=` gives. cfg: the whole config.
    """

    spec: "Spec"
    rows: "Sequence[DataRow]" = ()
    model: "WanModel | None" = None
    architecture: "Architecture | None" = None
    context_parallel: int = 1
    sharded: bool = False
    gives: str = ""
    cfg: "DictConfig | None" = None


class Part(Protocol):
    """A group of the config that is built: its constructor refuses numbers that can't be, `check` what does not fit."""

    def check(self, setting: Setting) -> None:
        """Before any model is loaded: ValueError names the field and the remedy. Nothing is wrong by default."""
