"""The teacher's target: frozen, guided as Eq. 3 says, its strengths fixed or drawn."""

import pytest
import torch
from torch.testing import assert_close

from apo.guidance.cfg import CFG
from apo.guidance.cfg_stg import CFGSTG
from apo.guidance.none import NoGuidance
from apo.guidance.teacher import GuidanceDistillation
from tests.policies.test_wan import inputs, make, perturbed

TEACHER = CFGSTG(2.0, 1.0, 0.9, 0.5, [1], True)


def test_strengths_are_drawn_from_their_ranges_by_step_and_row_alone():
    distill = GuidanceDistillation(TEACHER, [0.5, 3.0], [0.0, 1.0], seed=0)
    drawn = [
        (distill.at(step, row).omega_high, distill.at(step, row).lambda_) for step in range(50) for row in range(2)
    ]
    assert drawn == [
        (g.omega_low, g.lambda_) for step in range(50) for row in range(2) for g in [distill.at(step, row)]
    ]
    omegas, lambdas = zip(*drawn)
    assert 0.5 <= min(omegas) < 0.8 and 2.7 < max(omegas) <= 3 and 0 <= min(lambdas) < 0.1 and 0.9 < max(lambdas) <= 1
    assert len(set(drawn)) == 100 and GuidanceDistillation(TEACHER, [0.5, 3.0], [0.0, 1.0], seed=1).at(
        0, 0
    ) != distill.at(0, 0)


def test_without_ranges_they_are_the_guidances():
    assert GuidanceDistillation(TEACHER, None, None, 0).at(7, 3) == TEACHER
    only = GuidanceDistillation(TEACHER, None, [0.2, 0.2], 0).at(7, 3)
    assert (only.omega_high, only.omega_low, only.lambda_) == (2.0, 1.0, 0.2)


def test_the_mean_target_over_ranges_is_the_target_at_their_middle(request):
    """Eq. 3 is linear in both strengths: the corners of the ranges average to it."""
    policy = perturbed(make(request, "wan22"))
    x_t, t, cond = inputs(policy, "wan22", [950.0])
    with torch.no_grad():
        corners = [CFGSTG(w, w, 0.9, s, [1], False)(policy, x_t, t, cond) for w in (0.0, 2.0) for s in (0.0, 1.0)]
        middle = CFGSTG(1.0, 1.0, 0.9, 0.5, [1], False)(policy, x_t, t, cond)
    assert_close(torch.stack(corners).mean(0), middle, rtol=1e-4, atol=1e-4)


def test_the_teacher_stays_put_while_the_student_moves(request, tmp_path):
    perturbed(make(request, "wan22")).save_adapter(tmp_path)
    policy = make(request, "wan22", adapter=str(tmp_path))
    distill = GuidanceDistillation(TEACHER, None, None, 0)
    places = [inputs(policy, "wan22", t) for t in ([950.0, 960.0], [500.0, 700.0])]
    before = [distill.target(policy, *place, TEACHER) for place in places]
    with torch.no_grad():
        for target, place in zip(before, places):
            assert_close(target, TEACHER(policy, *place))  # it starts as the student, guided
    perturbed(policy)
    for target, place in zip(before, places):
        assert torch.equal(distill.target(policy, *place, TEACHER), target) and not target.requires_grad


@pytest.mark.parametrize(
    "settings, said",
    [
        ((NoGuidance(), None, None), "NoGuidance leaves nothing to distill: use guidance=cfg_stg or guidance=cfg"),
        ((TEACHER, [3.0, 1.0], None), r"distill.omega=\[3.0, 1.0\]: give a range"),
        ((TEACHER, 1.5, None), r"distill.omega=1.5: give a range"),
        ((TEACHER, None, [1.0]), r"distill.lambda_=\[1.0\]: give a range"),
        ((CFG(1.0, 1.0, 0.9), None, [0.0, 1.0]), r"distill.lambda_=\[0.0, 1.0\] needs guidance=cfg_stg"),
    ],
)
def test_mistakes_name_the_field(settings, said):
    with pytest.raises(ValueError, match=said):
        GuidanceDistillation(*settings, seed=0)
