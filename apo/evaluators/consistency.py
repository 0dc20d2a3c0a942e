"""How far subject and background stay as the first frame has them."""

from torch import Tensor

from apo.evaluators.base import Mean


class SubjectConsistency(Mean):
    """Mean likeness of the digit (or the scene) to the first frame's, in shape and colour, in [0, 1]."""

    least, most = 0.0, 1.0

    def select(self, measurement) -> Tensor:
        return measurement.subject_consistency


class BackgroundConsistency(Mean):
    """Mean likeness of the background (or the scene) to the first frame's, in [0, 1]."""

    least, most = 0.0, 1.0

    def select(self, measurement) -> Tensor:
        return measurement.background_consistency
