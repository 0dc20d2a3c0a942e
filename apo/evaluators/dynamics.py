"""How much and how smoothly things move."""

from torch import Tensor

from apo.evaluators.base import Mean


class DynamicDegree(Mean):
    """Mean speed in px/frame: net displacement, so that jitter does not count as motion."""

    least = 0.0

    def select(self, measurement) -> Tensor:
        return measurement.speed


class MotionSmoothness(Mean):
    """Mean of 1 / (1 + acceleration), in [0, 1]; 1 for constant velocities."""

    least, most = 0.0, 1.0

    def select(self, measurement) -> Tensor:
        return measurement.motion_smoothness
