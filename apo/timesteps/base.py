"""What all timestep samplers have."""

from abc import ABC, abstractmethod

from torch import Tensor

from apo.parts import Part, Setting


class Sampler(Part, ABC):
    @abstractmethod
    def sample(self, step: int, batch_size: int) -> Tensor:
        """See `apo.interfaces.TimestepSampler`."""

    def check(self, setting: Setting) -> None:
        """ValueError unless it draws."""
        self.sample(0, 1)
