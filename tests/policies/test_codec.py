"""The frozen parts around the transformer: a VAE that works in tiles, parts that stay in CPU memory."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from apo.config.compose import compose
from apo.plan.counting import Live
from apo.policies.codec import PARTS, WanCodec
from apo.policies.encoder import WanEncoder
from apo.solvers.ode import initial_noise
from apo.world.conditions import WorldConditions
from tests.builds import PROMPT
from tests.policies.test_wan import STYLES, frame, make

LARGE = 192  # pixels a side, three times the world's


@pytest.fixture(scope="module")
def codec() -> WanCodec:
    """The world's trained one."""
    return WanEncoder(instantiate(compose("train").model)).codec


@pytest.fixture(scope="module")
def videos() -> torch.Tensor:
    """(2, 9, 3, LARGE, LARGE) uint8: still frames of the world, enlarged."""
    _, frames = WorldConditions("test", 2, 0).batch(0, 2)
    large = torch.nn.functional.interpolate(frames.float(), size=LARGE, mode="bicubic").clamp(0, 255).to(torch.uint8)
    return large[:, None].repeat(1, 9, 1, 1, 1)


def use(codec: WanCodec, monkeypatch, **tiles: int | None) -> list[str]:
    """From now on the codec has these tiles; the names of the tiled methods that are called."""
    called = []

    def noting(name: str, method):
        return lambda *args, **kwargs: called.append(name) or method(*args, **kwargs)

    for name in ("tiled_decode", "tiled_encode"):
        monkeypatch.setattr(
            codec.pipeline.vae, name, noting(name, getattr(type(codec.pipeline.vae), name).__get__(codec.pipeline.vae))
        )
    codec.model = replace(codec.model, **{"decode_tile": None, "encode_tile": None} | tiles)
    return called


def test_tiles_decode_a_large_video_in_less_memory_and_it_looks_the_same(codec, videos, monkeypatch):
    latents, found, peak = codec.encode(videos), {}, {}
    for side in (None, 96):
        called = use(codec, monkeypatch, decode_tile=side)
        with Live([latents, *codec.parameters()]) as live:
            found[side] = codec.decode(latents).float()
        assert called == ([] if side is None else ["tiled_decode"] * 2)  # a video at a time
        peak[side] = live.peak
    assert peak[96] < 0.4 * peak[None]
    assert 0 < (found[96] - found[None]).abs().mean() < 3  # of 255
    errors = [(found[side] - videos).square().mean() for side in (None, 96)]
    assert errors[1] < 1.2 * errors[0]  # 1.12, half a decibel: the tiles of so small a side see less around them


def test_tiles_encode_to_nearly_the_same_latents(codec, videos, monkeypatch):
    whole = codec.encode(videos)
    called = use(codec, monkeypatch, encode_tile=96)
    tiled = codec.encode(videos)
    use(codec, monkeypatch)
    assert called == ["tiled_encode"] * 2 and 0 < (tiled - whole).abs().mean() < 0.05 * whole.std()


@STYLES
def test_a_video_that_a_tile_holds_is_not_cut(request, style, monkeypatch):
    policy = make(request, style)
    latents, spec = initial_noise(policy, [0]), policy.spec
    video = torch.randint(0, 256, (1, spec.frames, 3, spec.height, spec.width), dtype=torch.uint8)
    whole = policy.decode(latents), policy.encode(video)
    called = use(policy.codec, monkeypatch, decode_tile=128, encode_tile=128)
    assert torch.equal(policy.decode(latents), whole[0]) and torch.equal(policy.encode(video), whole[1]) and not called


def test_what_was_encoded_otherwise_has_another_fingerprint(request):
    plain, decoding, encoding = (
        make(request, "wan22", **tiles) for tiles in ({}, {"decode_tile": 32}, {"encode_tile": 32})
    )
    assert plain.fingerprint == decoding.fingerprint != encoding.fingerprint
    assert encoding.fingerprint == WanEncoder(encoding.model).fingerprint


def test_tiles_overlap_by_whole_latents(request):
    with pytest.raises(ValueError, match="model.decode_tile=100: give a multiple of 32, or null"):
        make(request, "wan22", decode_tile=100)
    with pytest.raises(ValueError, match="model.encode_tile=0: give a multiple of 64"):
        make(request, "ti2v", encode_tile=0)


def watch(codec: WanCodec, monkeypatch) -> list[tuple[str, str]]:
    """(part, device or method) as parts are moved, which they really are not, and do their work."""
    seen = []

    def noting(name: str, part, method: str):
        real = getattr(part, method)
        return lambda *args, **kwargs: seen.append((name, method)) or real(*args, **kwargs)

    for name in PARTS:
        if (part := getattr(codec.pipeline, name)) is not None:
            monkeypatch.setattr(
                part, "to", lambda device, name=name, part=part: seen.append((name, str(device))) or part
            )
            for method in ("encode", "decode") if name == "vae" else ("forward",):
                monkeypatch.setattr(part, method, noting(name, part, method))
    return seen


def test_only_parts_that_are_not_offloaded_follow_the_policy_to_its_device(request):
    for offload, there in ((False, "meta"), (True, "cpu")):
        policy = make(request, "wan21", offload=offload).to("meta").train()
        parts = [getattr(policy.codec.pipeline, name) for name in PARTS]
        assert {p.device.type for part in parts for p in (*part.parameters(), *part.buffers())} == {there}
        assert {p.device.type for p in (*policy.parameters(), *policy.buffers())} == {"meta"}
        assert not any(p.requires_grad for part in parts for p in part.parameters())
        assert not any(module.training for part in parts for module in part.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_an_offloaded_part_is_on_the_codecs_device_while_it_works(request, monkeypatch, fails):
    codec = make(request, "wan21", offload=True).to("meta").codec
    seen = watch(codec, monkeypatch)
    for name in PARTS:
        with pytest.raises(RuntimeError, match="out of memory") if fails else nullcontext():
            with codec.on_device(name) as part:
                assert part is getattr(codec.pipeline, name) and seen.pop() == (name, "meta") and not seen
                if fails:
                    raise RuntimeError("out of memory")
        assert seen.pop() == (name, "cpu") and not seen


@STYLES
def test_offloaded_parts_are_moved_for_their_own_work_alone_and_give_the_same(request, style, monkeypatch):
    plain, policy = (make(request, style, offload=offload) for offload in (False, True))
    latents, video, seen = initial_noise(plain, [0]), frame(style)[:, None].repeat(1, 9, 1, 1, 1), {}
    for name, codec in (("plain", plain.codec), ("offloaded", policy.codec)):
        seen[name] = watch(codec, monkeypatch)
    assert torch.equal(policy.decode(latents), plain.decode(latents))
    assert torch.equal(policy.encode(video), plain.encode(video))
    ours, theirs = (p.encode_condition([PROMPT], frame(style)) for p in (policy, plain))
    for name, value in vars(theirs).items():
        assert (
            torch.equal(getattr(ours, name), value) if isinstance(value, torch.Tensor) else getattr(ours, name) == value
        )
    work = [("vae", "decode"), ("vae", "encode"), ("vae", "encode"), ("text_encoder", "forward")]
    if style == "wan21":
        work.insert(3, ("image_encoder", "forward"))
    assert seen["plain"] == work
    assert seen["offloaded"] == [
        step for part, method in work for step in ((part, "cpu"), (part, method), (part, "cpu"))
    ]
