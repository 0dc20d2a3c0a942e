import pytest
import torch

from apo.world.oracle import CAUSES, Measurement


@pytest.fixture
def measured():
    """Makes a measurement of clean, following, perfect videos; keyword arguments replace fields."""

    def make(count: int, **changed) -> Measurement:
        perfect = dict(
            cause_code=torch.zeros(count, dtype=torch.long),
            severity=torch.zeros(count),
            speed=torch.ones(count),
            direction_followed=torch.ones(count, dtype=torch.bool),
            speed_followed=torch.ones(count, dtype=torch.bool),
            subject_consistency=torch.ones(count),
            background_consistency=torch.ones(count),
            motion_smoothness=torch.ones(count),
        )
        return Measurement(**perfect | {name: torch.as_tensor(value) for name, value in changed.items()})

    return make


@pytest.fixture
def code():
    """The cause code of a cause."""
    return lambda cause: 1 + CAUSES.index(cause)
