from apo.evaluators.distortion import DistortionRate
from apo.intervals import wilson


def test_the_rate_counts_every_cause_once(measured, code):
    metric = DistortionRate()
    metric.update(measured(3, cause_code=[0, code("split"), code("cut")]))
    metric.update(measured(2, cause_code=[code("split"), 0]))
    assert metric.compute() == wilson(3, 5)
    counts = metric.counts()
    assert {cause: n for cause, n in counts.items() if n} == {"split": 2, "cut": 1}


def test_reset_forgets(measured, code):
    metric = DistortionRate()
    metric.update(measured(1, cause_code=[code("cut")]))
    metric.reset()
    metric.update(measured(4))
    assert metric.compute() == wilson(0, 4)
    assert sum(metric.counts().values()) == 0
