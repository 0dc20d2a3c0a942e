import pytest

from apo.evaluators.instruction import DirectionFollowing, InstructionFollowing, SpeedFollowing
from apo.intervals import wilson


@pytest.mark.parametrize(
    "metric, hits", [(InstructionFollowing(), 1), (DirectionFollowing(), 3), (SpeedFollowing(), 2)]
)
def test_following_needs_direction_and_speed(measured, metric, hits):
    metric.update(measured(4, direction_followed=[True, True, True, False], speed_followed=[True, False, False, True]))
    assert metric.compute() == wilson(hits, 4)


def test_a_distorted_video_can_follow(measured, code):
    metric = InstructionFollowing()
    metric.update(measured(1, cause_code=[code("split")]))
    assert metric.compute() == wilson(1, 1)
