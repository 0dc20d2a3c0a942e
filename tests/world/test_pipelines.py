"""The pipeline folders mean to plain diffusers what the policy assumes they mean. Nothing of ours samples here."""

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from torch.testing import assert_close

from apo.world.build.pipeline import CHECKPOINTS, tiny_wan22
from tests.builds import PROMPT, SPECS, first_frame, load, sample, seeded

NAMES = list(SPECS)


@pytest.fixture(scope="module", params=NAMES)
def tiny(request) -> tuple[str, WanImageToVideoPipeline]:
    return request.param, load(request.getfixturevalue(f"{request.param}_folder"))


def watch(module) -> list[torch.Tensor]:
    """The timesteps of every later call of a transformer."""
    seen = []
    module.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs["timestep"]), with_kwargs=True)
    return seen


def far(a, b, relative: float = 0.02) -> bool:
    return ((a - b).norm() / a.norm()).item() > relative


def test_plain_diffusers_samples_a_folder(tiny):
    name, pipeline = tiny
    spec = SPECS[name]
    video = sample(pipeline, spec, output_type="pt")
    assert video.shape == (1, spec.frames, 3, spec.height, spec.width)
    assert video.isfinite().all()
    assert video.std() > 0.1 and ((video > 0) & (video < 1)).float().mean() > 0.5  # neither flat nor clipped


def test_every_input_reaches_the_latents(tiny):
    name, pipeline = tiny
    spec = SPECS[name]
    latents = sample(pipeline, spec)
    assert_close(sample(pipeline, spec), latents, rtol=0, atol=0)
    for change in (
        dict(prompt=PROMPT.replace("five", "six")),
        dict(negative_prompt="left"),
        dict(image=first_frame(spec, seed=5)),
        dict(generator=seeded(2)),
        dict(guidance_scale=4.0),
        dict(num_inference_steps=5),
    ):
        assert far(latents, sample(pipeline, spec, **change)), change


def test_the_transformer_depends_on_each_channel_and_on_the_timestep(tiny):
    _, pipeline = tiny
    transformer = pipeline.transformer
    channels = transformer.config.in_channels
    x = torch.randn(1, channels, 3, 4, 6, generator=seeded(3))
    text = torch.randn(1, 512, transformer.config.text_dim, generator=seeded(4))
    image = None if transformer.config.image_dim is None else torch.randn(1, 17, 16, generator=seeded(5))

    def velocity(x, t):
        with torch.no_grad():
            return transformer(x, torch.tensor([t]), text, image, return_dict=False)[0]

    base = velocity(x, 500)
    assert far(base, velocity(x, 510))
    for channel in range(channels):
        nudged = x.clone()
        nudged[:, channel] += 1
        assert far(base, velocity(nudged, 500)), channel


def test_clip_tokens_of_another_image_change_wan21(wan21_folder, monkeypatch):
    pipeline, spec = load(wan21_folder), SPECS["wan21"]
    latents = sample(pipeline, spec)
    tokens = pipeline.encode_image(first_frame(spec, seed=5))
    monkeypatch.setattr(pipeline, "encode_image", lambda *_: tokens)  # the encoded first frame stays
    assert far(latents, sample(pipeline, spec))


def test_experts_split_at_the_boundary(wan22_folder):
    pipeline = load(wan22_folder)
    high, low = watch(pipeline.transformer), watch(pipeline.transformer_2)
    sample(pipeline, SPECS["wan22"], num_inference_steps=6)
    assert high and low and all(t >= 900 for t in high) and all(t < 900 for t in low)
    # each timestep twice: conditional, then unconditional
    assert torch.cat(high + low).tolist() == pipeline.scheduler.timesteps.repeat_interleave(2).tolist()


def test_a_timestep_on_the_boundary_is_high_noise(wan22_folder):
    pipeline = load(wan22_folder)
    pipeline.scheduler.set_timesteps(4)
    second = pipeline.scheduler.timesteps[1].item()
    pipeline.register_to_config(boundary_ratio=second / 1000)
    high = watch(pipeline.transformer)
    sample(pipeline, SPECS["wan22"])
    assert [t.item() for t in high[::2]] == pipeline.scheduler.timesteps[:2].tolist()


def test_the_second_guidance_scale_is_the_low_noise_experts(wan22_folder):
    pipeline, spec = load(wan22_folder), SPECS["wan22"]
    latents = sample(pipeline, spec)
    assert_close(sample(pipeline, spec, guidance_scale_2=3.0), latents, rtol=0, atol=0)
    assert far(latents, sample(pipeline, spec, guidance_scale_2=4.0))


def test_ti2v_gives_first_frame_tokens_timestep_zero_and_keeps_that_frame(ti2v_folder):
    pipeline, spec = load(ti2v_folder), SPECS["ti2v"]
    seen = watch(pipeline.transformer)
    latents = sample(pipeline, spec)
    tokens = spec.height // 32 * (spec.width // 32)  # of one latent frame: 16x VAE, 2x patch
    for t, timesteps in zip(pipeline.scheduler.timesteps, seen[::2]):
        assert timesteps.tolist() == [[0.0] * tokens + [t.item()] * (2 * tokens)]
    assert_close(latents[:, :, :1], sample(pipeline, spec, generator=seeded(2))[:, :, :1])


def test_two_builds_are_the_same_bytes(wan22_folder, tmp_path):
    tiny_wan22(tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert any(path.suffix == ".safetensors" for path in files)
    for path in files:
        assert (tmp_path / path).read_bytes() == (wan22_folder / path).read_bytes(), path


@pytest.mark.parametrize("name", NAMES)
def test_tiny_folders_are_small_and_safetensors(request, name):
    files = [path for path in request.getfixturevalue(f"{name}_folder").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 1.5e6
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pth", ".ckpt"}]


def test_the_shipped_wan21_folder_samples_and_is_small():
    folder = CHECKPOINTS / "wan21"
    video = sample(load(folder), SPECS["wan21"], output_type="pt")
    assert video.isfinite().all()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 1.5e6
