"""Eq. 3 against diffusers' own guider, and its three predictions on real transformers in the three styles."""

import pytest
import torch
from diffusers.guiders import SkipLayerGuidance
from torch.testing import assert_close

from apo.guidance.cfg import CFG
from apo.guidance.cfg_stg import CFGSTG, guided
from apo.guidance.none import NoGuidance
from apo.parts import Setting
from apo.policies.architecture import fitting
from tests.policies.test_wan import STYLES, inputs, make, perturbed

SHAPE = (2, 4, 3, 2, 2)


@pytest.mark.parametrize("omega, lambda_", [(2.5, 1.0), (0.5, 3.0), (-0.5, 0.25)])
@pytest.mark.parametrize("original", [True, False])
def test_eq_3_is_the_algebra_of_diffusers_skip_layer_guidance(omega, lambda_, original):
    """Its guidance_scale is ω from the conditional prediction on, and 1 + ω from the unconditional one on."""
    v_c, v_null, v_skip = torch.randn(3, *SHAPE).unbind()
    guider = SkipLayerGuidance(
        guidance_scale=omega if original else 1 + omega,
        skip_layer_guidance_scale=lambda_,
        skip_layer_guidance_layers=[0],
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
        use_original_formulation=original,
    )
    assert_close(
        guided(v_c, v_null, v_skip, omega, lambda_), guider.forward(v_c, v_null, v_skip).pred, rtol=1e-5, atol=1e-5
    )


def test_guidance_of_equal_predictions_changes_nothing():
    v = torch.randn(SHAPE)
    assert_close(guided(v, v, v, 3.0, 2.0), v, rtol=1e-5, atol=1e-5)


@STYLES
@pytest.mark.parametrize("t", [500.0, 950.0])
def test_one_forward_and_three_agree_with_the_definition(request, style, t):
    policy = perturbed(make(request, style))
    x_t, t, cond = inputs(policy, style, [t, t])
    settings = {"omega_high": 2.0, "omega_low": 0.5, "boundary": policy.model.boundary, "lambda_": 1.5, "blocks": [1]}
    with torch.no_grad():
        with policy.skip([1]):
            v_skip = policy(x_t, t, cond)
        v_c, v_null = policy(x_t, t, cond), policy(x_t, t, policy.unconditional(cond))
        wanted = guided(v_c, v_null, v_skip, CFG(2.0, 0.5, policy.model.boundary).omega(t), 1.5)
        for batched in (False, True):
            assert_close(CFGSTG(**settings, batched=batched)(policy, x_t, t, cond), wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(v_c, v_skip, atol=1e-3)
        assert torch.equal(policy(x_t, t, cond), v_c)


@pytest.mark.parametrize("batched", [True, False])
def test_without_strength_it_is_cfg_and_then_nothing(request, batched):
    policy = perturbed(make(request, "wan22"))
    x_t, t, cond = inputs(policy, "wan22", [500.0])
    with torch.no_grad():
        cfg = CFG(2.0, 2.0, 0.9)(policy, x_t, t, cond)
        assert_close(CFGSTG(2.0, 2.0, 0.9, 0.0, [1], batched)(policy, x_t, t, cond), cfg, rtol=1e-5, atol=1e-5)
        plain = NoGuidance()(policy, x_t, t, cond)
        assert torch.equal(CFGSTG(0, 0, 0.9, 0, [], batched)(policy, x_t, t, cond), plain)


@pytest.mark.parametrize("omega, lambda_, rows", [(1.0, 1.0, 3), (1.0, 0.0, 2), (0.0, 1.0, 2), (0.0, 0.0, 1)])
def test_what_has_no_strength_is_not_computed(request, omega, lambda_, rows):
    policy = make(request, "wan22")
    x_t, t, cond = inputs(policy, "wan22", [500.0])
    seen = []
    hook = policy.experts["transformer_2"].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    with torch.no_grad():
        for batched in (True, False):
            CFGSTG(omega, omega, 0.9, lambda_, [0], batched)(policy, x_t, t, cond)
    hook.remove()
    assert seen == [rows] + [1] * rows


def test_mistakes_name_the_field(request):
    policy = make(request, "wan22")
    said = r"guidance.blocks=\[0, 2\]: there is no block 2; the model has 2, give 0 to 1"
    with pytest.raises(ValueError, match=said):
        CFGSTG(1.0, 1.0, 0.9, 1.0, [0, 2], True).check(Setting(policy.model.spec, architecture=fitting(policy.model)))
    with pytest.raises(ValueError, match=said), policy.skip([0, 2]):
        pass
    with pytest.raises(ValueError, match=r"guidance.lambda_=1.0 and guidance.blocks=\[\]: name blocks to skip"):
        CFGSTG(1.0, 1.0, 0.9, 1.0, [], True)
