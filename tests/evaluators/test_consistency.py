import pytest

from apo.evaluators.consistency import BackgroundConsistency, SubjectConsistency


def test_subject_and_background_are_told_apart(measured):
    subject, background = SubjectConsistency(), BackgroundConsistency()
    for metric in (subject, background):
        metric.update(measured(2, subject_consistency=[0.5, 0.7], background_consistency=[0.9, 1.0]))
    assert subject.compute().value == pytest.approx(0.6)
    assert background.compute().value == pytest.approx(0.95)
