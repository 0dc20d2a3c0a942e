"""How many videos do what the prompt says."""

from torch import Tensor

from apo.evaluators.base import Proportion


class InstructionFollowing(Proportion):
    """The share of videos whose motion has the prompt's direction and speed, distorted or not, in [0, 1]."""

    def select(self, measurement) -> Tensor:
        return measurement.followed


class DirectionFollowing(Proportion):
    """The share of videos with the prompt's direction at any of the grammar's speeds."""

    def select(self, measurement) -> Tensor:
        return measurement.direction_followed


class SpeedFollowing(Proportion):
    """The share of videos with the prompt's speed in any of the grammar's directions."""

    def select(self, measurement) -> Tensor:
        return measurement.speed_followed
