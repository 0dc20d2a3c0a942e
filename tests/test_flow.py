import torch
from torch.testing import assert_close

from apo.flow import denoising_error, inference_sigmas, noised, shift_sigma, velocity


def test_shift_is_undone_by_its_reciprocal():
    sigma = torch.linspace(0, 1, 11)
    assert_close(shift_sigma(shift_sigma(sigma, 5), 1 / 5), sigma)


def test_shift_keeps_the_ends_and_raises_the_middle():
    sigma = torch.linspace(0, 1, 11)
    shifted = shift_sigma(sigma, 5)
    assert shifted[0] == 0 and shifted[-1] == 1 and (shifted[1:-1] > sigma[1:-1]).all() and (shifted.diff() > 0).all()


def test_the_solvers_grid_is_ours():
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    scheduler.set_timesteps(40)
    # UniPC's unshifted grid ends at 1/1000 instead of 0 and its timesteps are cut, not rounded: 3.4 apart at the low
    # end
    assert (scheduler.timesteps - 1000 * inference_sigmas(40, 5)).abs().max() <= 3.5


def test_the_path_runs_from_data_to_noise_at_constant_velocity():
    x_0, noise = torch.randn(2, 3, 1, 2, 2), torch.randn(2, 3, 1, 2, 2)
    assert_close(noised(x_0, noise, torch.zeros(2)), x_0)
    assert_close(noised(x_0, noise, torch.full((2,), 1000.0)), noise)
    x_t = noised(x_0, noise, torch.tensor([300.0, 700.0]))
    assert_close(x_t - torch.tensor([0.3, 0.7]).view(2, 1, 1, 1, 1) * velocity(x_0, noise), x_0)


def test_error_is_a_mean_per_sample_in_float32():
    prediction = torch.ones(2, 3, 1, 2, 2, dtype=torch.bfloat16)
    error = denoising_error(prediction, torch.stack([torch.zeros(3, 1, 2, 2), torch.full((3, 1, 2, 2), 3.0)]))
    assert_close(error, torch.tensor([1.0, 4.0]))
